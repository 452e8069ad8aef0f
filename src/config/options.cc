#include "config/options.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace sluice {

namespace {

template <typename T>
Result<T> parse_number(const std::string& text, T low, T high) {
  T number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || !(number >= low && number <= high))
    return invalid_argument("expected a number in [{}, {}], found \"{}\"", low, high, text);
  return number;
}

template <typename T>
OptionSpec number(const char* key, const char* help, T Options::*field, T low, T high) {
  return {key, help,
          [=](Options& options, const std::string& text) -> Status {
            SLUICE_ASSIGN_OR_RETURN(options.*field, parse_number<T>(text, low, high));
            return {};
          },
          [=](const Options& options) { return fmt::format("{}", options.*field); }};
}

OptionSpec text(const char* key, const char* help, std::string Options::*field) {
  return {key, help,
          [=](Options& options, const std::string& value) -> Status {
            options.*field = value;
            return {};
          },
          [=](const Options& options) { return options.*field; }};
}

OptionSpec choice(const char* key, const char* help, std::string Options::*field, std::vector<std::string> allowed) {
  return {key, help,
          [=](Options& options, const std::string& value) -> Status {
            if (std::find(allowed.begin(), allowed.end(), value) == allowed.end())
              return invalid_argument("expected one of {}, found \"{}\"", fmt::join(allowed, ", "), value);
            options.*field = value;
            return {};
          },
          [=](const Options& options) { return options.*field; }};
}

OptionSpec flag_option(const char* key, const char* help, bool Options::*field) {
  return {key, help,
          [=](Options& options, const std::string& value) -> Status {
            if (value != "true" && value != "false")
              return invalid_argument("expected true or false, found \"{}\"", value);
            options.*field = value == "true";
            return {};
          },
          [=](const Options& options) { return options.*field ? "true" : "false"; }};
}

OptionSpec weights_option() {
  return {
      "weights",
      "weight format in memory: auto, f32, bf16, int8, int4-g32, int4-g64, int4-g128, or int4-g32z and so on with zero "
      "points (auto: that of a quantised checkpoint, F32 checkpoints f32, others bf16)",
      [](Options& options, const std::string& value) -> Status {
        SLUICE_ASSIGN_OR_RETURN(options.weights, parse_weight_format(value));
        return {};
      },
      [](const Options& options) { return std::string(name(options.weights)); }};
}

OptionSpec experts_on_option() {
  return {"experts_on",
          "where a CUDA device's routed experts are kept and computed: device, cpu (all of them by the CPU's kernels), "
          "cpu:N (those of the last N layers that have some), or auto (as few layers as the device has no room for)",
          [](Options& options, const std::string& value) -> Status {
            const bool counted = value.starts_with("cpu:");
            if (counted) {
              SLUICE_RETURN_IF_ERROR(
                  parse_number<int32_t>(value.substr(4), 1, 1024).status().with_context("layers behind \"cpu:\""));
            } else if (value != "device" && value != "cpu" && value != "auto") {
              return invalid_argument("expected device, cpu, cpu:N or auto, found \"{}\"", value);
            }
            options.experts_on = value;
            return {};
          },
          [](const Options& options) { return options.experts_on; }};
}

OptionSpec random_weights_option() {
  return {"random_weights", "seed: build the model from its config.json alone, with random weights (for measurements)",
          [](Options& options, const std::string& value) -> Status {
            if (value.empty()) {
              options.random_weights.reset();
              return {};
            }
            SLUICE_ASSIGN_OR_RETURN(options.random_weights, parse_number<uint64_t>(value, 0, UINT64_MAX));
            return {};
          },
          [](const Options& options) { return options.random_weights ? std::to_string(*options.random_weights) : ""; }};
}

std::vector<OptionSpec> make_table() {
  return {
      text("model", "directory of a Hugging Face checkpoint; empty serves the bundled demo model", &Options::model),
      text("name", "the model's name for clients; empty takes the directory's", &Options::name),
      weights_option(),
      text("device",
           "auto, cpu, cpu-amx, cpu-avx512bf16, cpu-avx512vnni, cpu-avx512, cpu-avx2 or ref (the slow oracle); cuda or "
           "cuda:INDEX",
           &Options::device),
      experts_on_option(),
      number("threads", "compute threads; 0 takes every CPU this process may use", &Options::threads, 0, 1024),
      random_weights_option(),
      text("weights_cache",
           "folder for weights in this machine's own layout: written once, read by the next start; empty keeps none",
           &Options::weights_cache),
      choice("chat_format", "prompt layout of chats; empty recognises the checkpoint's chat_template",
             &Options::chat_format, {"", "deepseek-v2", "deepseek-v3", "deepseek-r1", "deepseek-v3.1", "deepseek-v4"}),
      number("context", "tokens of a sequence, prompt and answer together; 0 takes the model's own", &Options::context,
             0, 1 << 24),
      number("tp", "ranks that hold a part of the model each; on one machine this command starts them", &Options::tp, 1,
             1024),
      choice("parallel.experts",
             "how ranks share the routed experts: sliced (each a part of every expert) or whole (each some experts)",
             &Options::parallel_experts, {"sliced", "whole"}),
      number("parallel.timeout", "seconds after which a rank that does not answer counts as lost",
             &Options::parallel_timeout, 0.1, 3600.0),
      number("parallel.start_timeout", "seconds until all ranks must have loaded", &Options::parallel_start_timeout,
             0.1, 86400.0),
      text("parallel.address", "address at which other ranks reach this one; empty takes the one that leads to rank 0, or to a rank elsewhere",
           &Options::parallel_address),
      choice(
          "attention",
          "full, or block_global: beyond block_global.pages a token attends to the pages (64 positions) that seem to "
          "matter most to it; cheap in long contexts, not exact",
          &Options::attention, {"full", "block_global"}),
      number("block_global.pages", "pages that a token attends to; tokens with no more before them attend to all",
             &Options::block_global_pages, 2, 1 << 16),
      number("block_global.sink_pages", "of these, the first of the sequence", &Options::block_global_sink_pages, 0,
             1 << 16),
      number("block_global.window_pages", "of these, the last, the token's own included",
             &Options::block_global_window_pages, 1, 1 << 16),
      number("block_global.full_every", "layers 0, k, 2k, ... keep full attention; 0: none does",
             &Options::block_global_full_every, 0, 1024),
      choice(
          "cache.dtype",
          "type of cached latents and of attention's operands: f32, bf16 (half the memory, twice the speed), int8 (half "
          "again, not exact: codes and scales; deepseek_v2 and deepseek_v3 on the CPU), or auto (f32 where the weights "
          "are, else bf16)",
          &Options::cache_dtype, {"auto", "bf16", "f32", "int8"}),
      number<int64_t>("cache.memory_mib",
                      "memory for cached pages in MiB; 0 takes a quarter of the free memory, at most 4096",
                      &Options::cache_memory_mib, 0, int64_t{1} << 32),
      flag_option("cache.enabled", "keep what was computed for later requests with the same beginning",
                  &Options::cache_enabled),
      flag_option("cache.reuse_generated", "let a next turn reuse the pages of the answer before it",
                  &Options::cache_reuse_generated),
      number<int64_t>("cache.host_mib", "memory for pages that had to leave the cache, in MiB; 0 drops them",
                      &Options::cache_host_mib, 0, int64_t{1} << 32),
      text("cache.disk", "folder for pages that were found again, so that they survive a restart; needs cache.host_mib",
           &Options::cache_disk),
      number<int64_t>("cache.disk_mib", "size of that folder in MiB", &Options::cache_disk_mib, 1, int64_t{1} << 40),
      number("scheduler.max_batch_tokens", "tokens computed in one step, prompts and answers together",
             &Options::max_batch_tokens, 64, 65536),
      number("scheduler.max_running", "sequences that run at once", &Options::max_running, 1, 65536),
      flag_option("scheduler.static_batching",
                  "admit nobody until all of the batch have finished (for comparisons only)",
                  &Options::static_batching),
      text("grpc", "HOST:PORT of the gRPC server; port 0 picks a free one", &Options::grpc),
      text("http", "HOST:PORT of the HTTP server; port 0 picks a free one, off serves none", &Options::http),
      text("tls.cert", "PEM file with the server's certificate chain; empty serves without TLS", &Options::tls_cert),
      text("tls.key", "PEM file with its private key", &Options::tls_key),
      text("tls.client_ca", "PEM file with authorities; clients must show a certificate of one of them",
           &Options::tls_client_ca),
      text("auth.tokens", "file of bearer tokens' hashes (`sluice token` makes entries); read again at SIGHUP",
           &Options::auth_tokens),
      flag_option("insecure", "listen beyond this machine without TLS and tokens", &Options::insecure),
      number<int64_t>("queue.requests", "requests that may wait; more are refused at once", &Options::queue_requests, 1,
                      1 << 24),
      number<int64_t>("queue.tokens", "prompt tokens that may wait; more are refused at once", &Options::queue_tokens,
                      1, int64_t{1} << 40),
      number<int64_t>("grammar.cache_mib",
                      "memory for grammars of JSON schemas and other forms that clients asked for lately, in MiB",
                      &Options::grammar_cache_mib, 1, 1 << 20),
      number("max_message_mib", "largest gRPC message or HTTP body in MiB", &Options::max_message_mib, 1, 2047),
      number("drain_seconds", "grace period for running answers after SIGTERM", &Options::drain_seconds, 0.0, 86400.0),
      choice("log_level", "trace, debug, info, warn, error or off", &Options::log_level,
             {"trace", "debug", "info", "warn", "error", "off"}),
      choice("log_format", "text, or json: every line on stderr is an object", &Options::log_format, {"text", "json"}),
      text(
          "trace.endpoint",
          "HOST:PORT of an OpenTelemetry collector (OTLP over gRPC) that gets a span of each request; empty sends none",
          &Options::trace_endpoint),
      number("trace.sample_ratio",
             "share of requests without a `traceparent` that are traced; with one, the client's flag decides",
             &Options::trace_sample_ratio, 0.0, 1.0),
  };
}

std::string replaced(std::string text, std::string_view from, char to) {
  for (char& c : text)
    if (from.find(c) != std::string_view::npos) c = to;
  return text;
}

const OptionSpec* find(const std::string& key) {
  for (const OptionSpec& spec : option_table())
    if (key == spec.key) return &spec;
  return nullptr;
}

Status apply_node(const std::string& file, const YAML::Node& node, const std::string& prefix, Options& options) {
  for (const auto& entry : node) {
    const std::string key = prefix + entry.first.as<std::string>();
    if (entry.second.IsMap()) {
      SLUICE_RETURN_IF_ERROR(apply_node(file, entry.second, key + ".", options));
      continue;
    }
    const OptionSpec* spec = find(key);
    if (!spec) {
      return invalid_argument("{}:{}: {}: unknown key; `sluice serve --help` lists the options", file,
                              entry.first.Mark().line + 1, key);
    }
    if (!entry.second.IsScalar() && !entry.second.IsNull())
      return invalid_argument("{}:{}: {}: expected a single value, found a list", file, entry.first.Mark().line + 1,
                              key);
    const std::string value = entry.second.IsNull() ? "" : entry.second.as<std::string>();
    SLUICE_RETURN_IF_ERROR(
        spec->set(options, value).with_context(fmt::format("{}:{}: {}", file, entry.first.Mark().line + 1, key)));
  }
  return {};
}

}  // namespace

std::string OptionSpec::flag() const { return "--" + replaced(key, "._", '-'); }

std::string OptionSpec::variable() const {
  std::string text = "SLUICE_" + replaced(key, ".", '_');
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text;
}

const std::vector<OptionSpec>& option_table() {
  static const std::vector<OptionSpec> table = make_table();
  return table;
}

Status apply_yaml(const std::string& file, Options& options) {
  try {
    const YAML::Node root = YAML::LoadFile(file);
    if (root.IsNull()) return {};
    if (!root.IsMap()) return invalid_argument("{}: expected keys and values at the top level", file);
    return apply_node(file, root, "", options);
  } catch (const YAML::BadFile&) {
    return not_found("{}: cannot be read", file);
  } catch (const YAML::Exception& error) {
    return invalid_argument("{}:{}: {}", file, error.mark.line + 1, error.msg);
  }
}

Status apply_environment(Options& options) {
  for (const OptionSpec& spec : option_table()) {
    const std::string variable = spec.variable();
    if (const char* value = std::getenv(variable.c_str()))
      SLUICE_RETURN_IF_ERROR(spec.set(options, value).with_context("environment: " + variable));
  }
  return {};
}

}  // namespace sluice
