// The grammar compiler of a loaded model, where this build has one.
#pragma once

#include <memory>

#include "sluice/grammar.h"

#include "app/loaded_model.h"

namespace sluice {

// Null without the library (SLUICE_GRAMMAR), a tokenizer or an end-of-sequence token.
std::unique_ptr<GrammarCompiler> make_compiler(const LoadedModel& loaded, const Options& options);

}  // namespace sluice
