// Every option of the server in one typed table: key, meaning, default, range. The sources are read in this order,
// later ones win: the table's defaults, the YAML file, the environment (SLUICE_GRPC, SLUICE_CACHE_MEMORY, ...), flags
// (--grpc,
// --cache-memory). An unknown key is an error. Nothing else in the tree reads the environment for options.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/status.h"
#include "sluice/weight_format.h"

namespace sluice {

struct Options {
  // model
  std::string model;  // directory; empty: the bundled demo model
  std::string name;   // as served; empty: the directory's name
  WeightFormat weights = WeightFormat::kAuto;
  std::string device = "auto";
  std::string experts_on = "device";       // or "auto", "cpu", "cpu:N"; of a CUDA device
  int32_t threads = 0;                     // 0: all CPUs this process may use
  std::optional<uint64_t> random_weights;  // seed
  std::string weights_cache;               // folder; empty: none
  std::string chat_format;                 // empty: by the checkpoint's chat_template
  int32_t context = 0;                     // tokens; 0: the model's own
  // ranks
  int32_t tp = 1;                          // that hold a part of the model each
  std::string parallel_experts = "sliced"; // or "whole"
  double parallel_timeout = 20;            // seconds, of one collective operation
  double parallel_start_timeout = 600;     // seconds, until all ranks have loaded
  std::string parallel_address;            // of this rank for the others; empty: the one that leads to rank 0
  // attention; pages of 64 positions
  std::string attention = "full";      // "full" or "block_global"
  int32_t block_global_pages = 64;       // that a token attends to
  int32_t block_global_sink_pages = 1;   // the first of them
  int32_t block_global_window_pages = 2; // the last of them
  int32_t block_global_full_every = 0;   // layers 0, k, 2k, ... stay full; 0: none
  // cache
  std::string cache_dtype = "auto";  // "auto", "bf16", "f32" or "int8"
  int64_t cache_memory_mib = 0;     // 0: a quarter of the free memory, at most 4096
  bool cache_enabled = true;
  bool cache_reuse_generated = true;
  int64_t cache_host_mib = 0;  // second tier: evicted pages; 0: none
  std::string cache_disk;      // third tier: a folder; empty: none. Survives a restart
  int64_t cache_disk_mib = 4096;
  // scheduler
  int32_t max_batch_tokens = 512;
  int32_t max_running = 256;
  bool static_batching = false;
  // front door
  std::string grpc = "127.0.0.1:50051";  // HOST:PORT, port 0 picks a free one
  std::string http = "127.0.0.1:8080";   // the same, or "off"
  std::string tls_cert, tls_key, tls_client_ca;  // PEM files; empty: none
  std::string auth_tokens;                       // file of token hashes; empty: nobody is asked
  bool insecure = false;                         // lets a front door be reachable from elsewhere without TLS and tokens
  int64_t queue_requests = 1024;
  int64_t queue_tokens = 4'000'000;
  int64_t grammar_cache_mib = 256;
  int32_t max_message_mib = 16;
  double drain_seconds = 30;  // read again while the server runs, as are queue_*, log_level and the files named above
  std::string log_level = "info";
  std::string log_format = "text";  // or "json"
  std::string trace_endpoint;       // HOST:PORT of an OTLP/gRPC collector; empty: none
  double trace_sample_ratio = 1;    // of traces that begin here
};

struct OptionSpec {
  const char*
      key;  // "cache.memory_mib": YAML nesting at dots; flag --cache-memory-mib; environment SLUICE_CACHE_MEMORY_MIB
  const char* help;  // one sentence with unit and default
  std::function<Status(Options&, const std::string&)> set;
  std::function<std::string(const Options&)> get;

  std::string flag() const;
  std::string variable() const;
};

const std::vector<OptionSpec>& option_table();

// INVALID_ARGUMENT names file, key, expected and found.
Status apply_yaml(const std::string& file, Options& options);
Status apply_environment(Options& options);

}  // namespace sluice
