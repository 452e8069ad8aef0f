// The device of CUDA over a table of calls that a test makes fail: what is called, what is given back, what errors say.
#include "gpu/cuda_device.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <set>

#include "gpu/device_memory.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A CUDA of which one call fails. Handles are counted, so that what is not given back shows.
struct FakeCuda {
  std::string failing;
  CudaError error = 0;
  int devices = 1;
  int capability = 90;
  std::multiset<std::string> calls;
  std::set<void*> alive;
  int next_handle = 0;

  CudaError call(const char* name) {
    calls.insert(name);
    return failing == name ? error : 0;
  }
  template <typename Handle>
  CudaError make(const char* name, Handle** handle) {
    const CudaError result = call(name);
    if (result != 0) return result;
    *handle = static_cast<Handle*>(std::malloc(1));
    alive.insert(*handle);
    return 0;
  }
  CudaError drop(const char* name, void* handle) {
    EXPECT_EQ(alive.erase(handle), 1u) << name << " of what is not alive";
    std::free(handle);
    return call(name);
  }
} g_fake;

constexpr CudaApi kFakeApi{
    .error_name = [](CudaError) { return "cudaErrorName"; },
    .error_text = [](CudaError) { return "what CUDA says"; },
    .device_count =
        [](int* count) {
          *count = g_fake.devices;
          return g_fake.call("device_count");
        },
    .set_device = [](int) { return g_fake.call("set_device"); },
    .properties =
        [](int, DeviceProperties* found) {
          *found = {.name = "Fake 100", .memory_bytes = 1000, .multiprocessors = 4, .capability = g_fake.capability};
          return g_fake.call("properties");
        },
    .memory_info =
        [](size_t* free, size_t* total) {
          *free = 3 << 20;
          *total = 8 << 20;
          return g_fake.call("memory_info");
        },
    .keep_pool = [](int) { return g_fake.call("keep_pool"); },
    .stream_create = [](CUstream_st** stream) {
      void* handle = nullptr;
      const CudaError error = g_fake.make("stream_create", &handle);
      *stream = static_cast<CUstream_st*>(handle);
      return error;
    },
    .stream_destroy = [](CUstream_st* stream) { return g_fake.drop("stream_destroy", static_cast<void*>(stream)); },
    .stream_synchronize = [](CUstream_st*) { return g_fake.call("stream_synchronize"); },
    .stream_query = [](CUstream_st*) { return g_fake.call("stream_query"); },
    .stream_wait_event = [](CUstream_st*, void*) { return g_fake.call("stream_wait_event"); },
    .launch_host_func =
        [](CUstream_st*, void (*call)(void*), void* context) {
          const CudaError error = g_fake.call("launch_host_func");
          if (error == 0) call(context);
          return error;
        },
    .malloc_async = [](void** memory, size_t, CUstream_st*) { return g_fake.make("malloc_async", memory); },
    .free_async = [](void* memory, CUstream_st*) { return g_fake.drop("free_async", memory); },
    .malloc_host = [](void** memory, size_t) { return g_fake.make("malloc_host", memory); },
    .free_host = [](void* memory) { return g_fake.drop("free_host", memory); },
    .memcpy_async = [](void*, const void*, size_t, CUstream_st*) { return g_fake.call("memcpy_async"); },
    .memset_async = [](void*, int, size_t, CUstream_st*) { return g_fake.call("memset_async"); },
    .stream_begin_capture = [](CUstream_st*) { return g_fake.call("stream_begin_capture"); },
    .stream_end_capture = [](CUstream_st*, void** graph) { return g_fake.make("stream_end_capture", graph); },
    .graph_instantiate = [](void** executable, void*) { return g_fake.make("graph_instantiate", executable); },
    .graph_destroy = [](void* graph) { return g_fake.drop("graph_destroy", graph); },
    .graph_launch = [](void*, CUstream_st*) { return g_fake.call("graph_launch"); },
    .graph_exec_destroy = [](void* executable) { return g_fake.drop("graph_exec_destroy", executable); },
    .event_create = [](void** event) { return g_fake.make("event_create", event); },
    .event_record = [](void*, CUstream_st*) { return g_fake.call("event_record"); },
    .event_elapsed_time =
        [](float* milliseconds, void*, void*) {
          *milliseconds = 1.5f;
          return g_fake.call("event_elapsed_time");
        },
    .event_destroy = [](void* event) { return g_fake.drop("event_destroy", event); },
};

class CudaDeviceTest : public ::testing::Test {
 protected:
  CudaDeviceTest() { g_fake = {}; }
  ~CudaDeviceTest() override { EXPECT_TRUE(g_fake.alive.empty()) << g_fake.alive.size() << " handles not given back"; }

  // From now on `call` fails.
  static void fail(const char* call, CudaError error) {
    g_fake.failing = call;
    g_fake.error = error;
  }
  static std::unique_ptr<Device> open() {
    Result<std::unique_ptr<Device>> device = CudaDevice::open(kFakeApi, 0);
    EXPECT_TRUE(device.ok()) << device.status().to_string();
    return std::move(*device);
  }
};

TEST_F(CudaDeviceTest, OpensAndCloses) {
  auto device = open();
  EXPECT_EQ(device->properties().name, "Fake 100");
  EXPECT_EQ(*device->free_bytes(), 3 << 20);
  EXPECT_EQ(g_fake.calls.count("keep_pool"), 1u);
  device.reset();
  EXPECT_EQ(g_fake.calls.count("stream_destroy"), 1u);
}

TEST_F(CudaDeviceTest, WithoutADeviceTheErrorSaysWhatToLookAt) {
  const auto message = [] {
    const Status status = CudaDevice::open(kFakeApi, 0).status();
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
    return status.message();
  };
  fail("device_count", kCudaNoDevice);
  EXPECT_THAT(message(), AllOf(HasSubstr("cudaGetDeviceCount (cuda_device.cc:"), HasSubstr("what CUDA says"),
                               HasSubstr("CUDA_VISIBLE_DEVICES")));
  fail("device_count", kCudaInsufficientDriver);
  EXPECT_THAT(message(), HasSubstr("older than the toolkit"));
  g_fake = {};
  g_fake.devices = 0;
  EXPECT_THAT(message(), HasSubstr("expected a CUDA device in [0, 0), found 0"));
  g_fake.devices = 1;
  g_fake.capability = 75;
  EXPECT_THAT(message(), HasSubstr("Fake 100 has compute capability 7.5; expected 8.0"));
}

TEST_F(CudaDeviceTest, AFailedOpenGivesEverythingBack) {
  for (const char* call : {"set_device", "properties", "keep_pool", "stream_create"}) {
    fail(call, 1);
    EXPECT_EQ(CudaDevice::open(kFakeApi, 0).status().code(), StatusCode::kInternal) << call;
  }
}

// In a stream of its own, between two events: one for what it comes behind, one for what comes behind it.
TEST_F(CudaDeviceTest, ACallOfTheHostRunsInItsOwnStream) {
  auto device = open();
  int calls = 0;
  const Device::HostCall call{.run = [](void* context) { ++*static_cast<int*>(context); }, .context = &calls};
  for (int i = 1; i <= 2; ++i) {
    ASSERT_TRUE(device->fork_call(call).ok());
    ASSERT_TRUE(device->join_call().ok());
    EXPECT_EQ(calls, i);
  }
  EXPECT_EQ(g_fake.calls.count("stream_create"), 2u);
  EXPECT_EQ(g_fake.calls.count("event_create"), 2u);
  EXPECT_EQ(g_fake.calls.count("event_record"), 4u);
  EXPECT_EQ(g_fake.calls.count("stream_wait_event"), 4u);
  device.reset();
  EXPECT_EQ(g_fake.calls.count("stream_destroy"), 2u);
}

TEST_F(CudaDeviceTest, TheWaitIsForACallThatNobodyJoined) {
  auto device = open();
  int calls = 0;
  ASSERT_TRUE(device->fork_call({.run = [](void* context) { ++*static_cast<int*>(context); }, .context = &calls}).ok());
  fail("stream_wait_event", 1);
  EXPECT_EQ(device->join_call().code(), StatusCode::kInternal);
  fail("", 0);
  ASSERT_TRUE(device->wait().ok());
  EXPECT_EQ(g_fake.calls.count("stream_synchronize"), 2u);  // both streams,
  ASSERT_TRUE(device->wait().ok());
  EXPECT_EQ(g_fake.calls.count("stream_synchronize"), 3u);  // and the queue's alone again
}

TEST_F(CudaDeviceTest, ACallThatFailsSaysWhere) {
  int calls = 0;
  const Device::HostCall call{.run = [](void* context) { ++*static_cast<int*>(context); }, .context = &calls};
  for (const auto& [name, text] :
       {std::pair("event_create", "cudaEventCreate"), std::pair("event_record", "cudaEventRecord"),
        std::pair("stream_wait_event", "cudaStreamWaitEvent"), std::pair("launch_host_func", "cudaLaunchHostFunc")}) {
    auto device = open();
    fail(name, 1);
    const Status status = device->fork_call(call);
    EXPECT_EQ(status.code(), StatusCode::kInternal);
    EXPECT_THAT(status.message(), HasSubstr(text));
    fail("", 0);
  }
  EXPECT_EQ(calls, 0);
}

TEST_F(CudaDeviceTest, OutOfMemorySaysWhatWasAskedForAndWhatIsFree) {
  auto device = open();
  fail("malloc_async", kCudaMemoryAllocation);
  const Status status = device->allocate(5 << 20).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("5.0 MiB of 3.0 MiB free"), HasSubstr("cudaMallocAsync"),
                                      HasSubstr("nvidia-smi")));
  fail("malloc_host", kCudaMemoryAllocation);
  EXPECT_THAT(device->allocate_host(1 << 20).status().message(), HasSubstr("1.0 MiB of pinned host memory"));
}

TEST_F(CudaDeviceTest, EveryCallIsChecked) {
  auto device = open();
  std::byte memory[16];
  const auto message = [&](const char* call, const Status& status) {
    EXPECT_EQ(status.code(), StatusCode::kInternal) << call;
    EXPECT_THAT(status.message(), AllOf(HasSubstr("cuda_device.cc:"), HasSubstr("cudaErrorName"))) << call;
  };
  fail("memcpy_async", 1);
  message("copy_in", device->copy_in(memory, memory, 16));
  message("copy_out", device->copy_out(memory, memory, 16));
  message("copy", device->copy(memory, memory, 16));
  fail("memset_async", 1);
  message("fill", device->fill(memory, 0, 16));
  fail("memory_info", 1);
  message("free_bytes", device->free_bytes().status());
  fail("stream_begin_capture", 1);
  message("begin_capture", device->begin_capture());
  for (const char* call : {"stream_end_capture", "graph_instantiate"}) {
    fail(call, 1);
    message(call, device->end_capture().status());
  }
  for (const char* call : {"event_create", "event_record"}) {
    fail(call, 1);
    message(call, device->mark().status());
  }
  fail("stream_synchronize", kCudaIllegalAddress);
  const Status status = device->wait();
  message("wait", status);
  EXPECT_THAT(status.message(), HasSubstr("compute-sanitizer"));
}

TEST_F(CudaDeviceTest, WorkThatIsLeftIsNoError) {
  auto device = open();
  EXPECT_TRUE(*device->done());
  fail("stream_query", kCudaNotReady);
  EXPECT_FALSE(*device->done());
  fail("stream_query", kCudaIllegalAddress);
  const Status status = device->done().status();
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("cudaStreamQuery (cuda_device.cc:"), HasSubstr("compute-sanitizer")));
}

TEST_F(CudaDeviceTest, GraphsAndMarksAreGivenBack) {
  auto device = open();
  ASSERT_TRUE(device->begin_capture().ok());
  const auto graph = device->end_capture();
  ASSERT_TRUE(graph.ok());
  EXPECT_TRUE(device->replay(*graph).ok());
  device->release(*graph);
  const auto begin = device->mark(), end = device->mark();
  EXPECT_DOUBLE_EQ(*device->seconds_between(*begin, *end), 0.0015);
  device->release(*begin);
  device->release(*end);
}

TEST_F(CudaDeviceTest, BuffersOwnTheirMemory) {
  auto device = open();
  {
    Result<DeviceBuffer> first = DeviceBuffer::allocate(*device, 100);
    DeviceBuffer moved = std::move(*first);
    EXPECT_EQ(moved.bytes(), 100);
    moved = DeviceBuffer::allocate(*device, 50).value();
    EXPECT_EQ(g_fake.calls.count("free_async"), 1u);
    const auto pinned = PinnedBuffer::allocate(*device, 10);
    EXPECT_EQ(g_fake.alive.size(), 3u);  // the stream, 50 bytes, 10 pinned ones
  }
  EXPECT_EQ(g_fake.alive.size(), 1u);
}

}  // namespace
}  // namespace sluice
