// What may change while the server runs: tokens, certificates, and of the options the few that are read at each use.
// Owns the options in force and the state of their files on disk; looks at the files when it is told to. Whatever is
// wrong with a file is logged, and what was in force stays. The main thread's alone.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "app/commands.h"
#include "base/request_queue.h"
#include "server/auth.h"
#include "server/frontend.h"
#include "server/grpc_server.h"
#include "server/http_server.h"

namespace sluice {

class Reloader {
 public:
  struct Parts {
    RequestQueue& queue;
    Frontend& frontend;
    Authenticator* authenticator;  // null: nobody is asked
    GrpcServer& grpc;
    HttpServer* http;  // null: there is none
  };
  struct Watched {
    std::string file;
    std::string seen, read;  // what stat() said at the last tick, and before the content was read
  };
  struct Files {
    std::vector<Watched> options, tokens, certificates;
  };
  // The files' states, to be taken before the first reading: what changes while the model loads is a change, too.
  static Files look(const OptionFlags& flags, const Options& options);

  // `flags` are those that gave `options`; they win over the file at each reading, too.
  Reloader(const OptionFlags& flags, Options options, Files files, Parts parts);

  // Reads all again (SIGHUP).
  void reload();
  // Once a second or so: reads what has changed on disk and stands still since the last tick, so that a file that is
  // being written is not read in halves.
  void tick();

  const Options& options() const { return options_; }

 private:
  void reload_options();
  void reload_tokens();
  void reload_certificates();
  // The files and whether one of them changed; marks them as read.
  static bool changed(std::vector<Watched>& files);

  const OptionFlags& flags_;
  Options options_;
  const Parts parts_;
  Files files_;
};

}  // namespace sluice
