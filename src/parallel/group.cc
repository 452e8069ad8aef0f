#include "parallel/group.h"

#include <csignal>

#include "parallel/gloo_communicator.h"
#include "parallel/own_address.h"
#include "parallel/single_rank.h"

namespace sluice {

Result<std::unique_ptr<Group>> Group::open(const GroupAddress& address) {
  std::unique_ptr<Group> group(new Group(address));
  if (address.size == 1) return group;
  // Gloo writes to a dead rank's socket without asking to be spared the signal; the error it returns is what we want.
  std::signal(SIGPIPE, SIG_IGN);
  if (address.rank == 0) {
    int listener = address.listener;
    if (listener < 0) {
      SLUICE_ASSIGN_OR_RETURN(listener, listen_at(address_to_listen(address), address.port));
    }
    group->server_ = std::make_unique<StoreServer>(listener);
  }
  return group;
}

Status Group::meet() {
  if (address_.size == 1) {
    ranks_ = std::make_unique<SingleRank>();
    return {};
  }
  const std::string who = fmt::format("rank {} of {}", address_.rank, address_.size);
  Result<std::unique_ptr<StoreClient>> client =
      StoreClient::connect(address_.host, address_.port, address_.start_timeout);
  if (!client.ok()) return client.status().with_context(who);
  client_ = std::move(client).value();
  SLUICE_ASSIGN_OR_RETURN(ranks_, connect_gloo(address_, *client_));
  return {};
}

}  // namespace sluice
