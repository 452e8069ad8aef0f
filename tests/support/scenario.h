// Runs a scheduler scenario written as text, so that a bug report becomes a text file (tests/scenario/*.scn). One
// directive per line, '#' begins a comment; sizes are tokens, a page is 64 of them.
//
//   pool pages=8 [cache=off] [reuse_generated=off] [host=4]
//   limits [tokens=128] [seqs=4] [context=1000] [static] [keep_rows]
//   t=5                                   the clock, in ms; may stand before any other directive
//   submit A prompt=100 new=4 [n=2] [priority=1] [salt=x] [deadline=9] [stops_at=2] [min=3] [prompt_logprobs]
//            [shares B[0,64)] [same B] [continues B]     the prompt begins like B's / is B's / is B's and its answer
//   step [-> prefill A[0,64) | decode B | recompute C[70,75) | draw A.1 copy=36 | again D   free=3 ...]    or: idle
//   steps 3 | run                         without looking; run goes on until nothing is left
//   cancel A | finish A[.1] 3             what clients and the detokeniser send
//   expect A[.1] finish=length tokens=4 cached=64 queue=2     of a request that has ended (queue in ms)
//   expect free=3 cached=2 used=1 running=1 waiting=0 preemptions=0 evicted=0 hits=128 host=2 ...
//   trace -> admitted A 64 partial page | preempted B 80 no page for itself      since the last trace line
//   end -> free+cached=8
#pragma once

#include <string>

namespace sluice {

// Empty when all went as written; else "name:line: expected ..., found ...".
std::string run_scenario(const std::string& name, const std::string& text);

}  // namespace sluice
