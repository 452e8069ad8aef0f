// The ranks of one machine as child processes of the command that wants them: this binary once more for each, with the
// same words and, in its environment, who it is. The parent computes nothing; it passes signals on to rank 0, whose
// output is the command's, and watches. When a rank dies, the rank that serves has kAnswerGrace to tell its clients;
// then the whole group ends, for a group without a rank is of no use.
#pragma once

#include <functional>

#include "sluice/clock.h"
#include "sluice/status.h"

#include "app/loaded_model.h"
#include "config/launch.h"

namespace sluice {

// Rank 0 notices a dead rank at its next collective and answers everybody within a second; a hung one is noticed by the
// timeout of collectives, before any rank exits.
constexpr Duration kAnswerGrace = std::chrono::seconds(5);

// The exit code of a rank whose group broke: the group may be started again. (EX_TEMPFAIL of sysexits.h)
constexpr int kExitGroupBroken = 75;

// Starts the ranks and waits for their end. With `restarts` a group that broke is started again, each time a little
// later where it breaks early; one that ended by itself, with an error or without, is not.
Status run_rank_processes(const Launch& launch, bool restarts);

// What a rank other than the first does once its model is loaded: follows rank 0 to the end. SIGINT and SIGTERM are
// left to rank 0, which says when it is over. `on_times`: Follower::on_times().
Status follow(LoadedModel& loaded, const Options& options, std::function<Status()> on_times = {});

}  // namespace sluice
