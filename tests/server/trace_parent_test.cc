// The header `traceparent`, with the examples and the rules of the W3C recommendation (Trace Context, 3.2).
#include "server/trace_parent.h"

#include <gtest/gtest.h>

#include <string>

namespace sluice {
namespace {

const std::string kTrace = "4bf92f3577b34da6a3ce929d0e0e4736", kSpan = "00f067aa0ba902b7";
const std::string kGood = "00-" + kTrace + "-" + kSpan + "-01";

TEST(TraceParent, IsRead) {
  const auto read = parse_trace_parent(kGood);
  ASSERT_TRUE(read);
  EXPECT_EQ(trace_hex(read->trace_id.data(), read->trace_id.size()), kTrace);
  EXPECT_EQ(trace_hex(read->span_id.data(), read->span_id.size()), kSpan);
  EXPECT_TRUE(read->sampled);
  EXPECT_FALSE(parse_trace_parent("00-" + kTrace + "-" + kSpan + "-00")->sampled);
  EXPECT_FALSE(parse_trace_parent("00-" + kTrace + "-" + kSpan + "-02")->sampled) << "other flags mean nothing to us";
  EXPECT_TRUE(parse_trace_parent("00-" + kTrace + "-" + kSpan + "-03")->sampled);
}

TEST(TraceParent, LaterVersionsAreReadAsFarAsTheyAreKnown) {
  EXPECT_TRUE(parse_trace_parent("01-" + kTrace + "-" + kSpan + "-01"));
  EXPECT_TRUE(parse_trace_parent("cc-" + kTrace + "-" + kSpan + "-01-what-the-future-will-be"));
  EXPECT_FALSE(parse_trace_parent("cc-" + kTrace + "-" + kSpan + "-01.what"));
  EXPECT_FALSE(parse_trace_parent(kGood + "-what-the-future-will-be")) << "version 00 has nothing behind the flags";
}

TEST(TraceParent, WhatIsWrongIsNoTrace) {
  for (const std::string& text :
       {std::string(), std::string("nonsense"), kGood + "0", kGood.substr(0, 54), "ff-" + kTrace + "-" + kSpan + "-01",
        "0g-" + kTrace + "-" + kSpan + "-01", "00-" + std::string(32, '0') + "-" + kSpan + "-01",
        "00-" + kTrace + "-" + std::string(16, '0') + "-01", "00-4BF92f3577b34da6a3ce929d0e0e4736-" + kSpan + "-01",
        "00_" + kTrace + "-" + kSpan + "-01", "00-" + kTrace + "_" + kSpan + "-01",
        "00-" + kTrace + "-" + kSpan + "_01", "00-" + kTrace + "-" + kSpan + "-0x",
        "00-" + kTrace + "-00f067aa0ba902b -01", std::string(55, '-')})
    EXPECT_FALSE(parse_trace_parent(text)) << text;
  for (size_t at = 0; at < kGood.size(); ++at) {  // a byte of any kind at any place never reads out of bounds
    std::string text = kGood;
    text[at] = '\xff';
    EXPECT_FALSE(parse_trace_parent(text)) << at;
  }
}

}  // namespace
}  // namespace sluice
