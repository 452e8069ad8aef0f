// The one line that an ended answer leaves in the log: who, how much, how long, how it ended. Never what.
#pragma once

#include "server/answer_record.h"

namespace sluice {

void log_answer(const AnswerRecord& record);

}  // namespace sluice
