#include "driver/control/params.h"

#include <gtest/gtest.h>

namespace voltree {
namespace {

TEST(ParseJson, AcceptsAValueAndRefusesText) {
  EXPECT_TRUE(parse_json(R"({"a":[1,2,{"b":null}]})").ok());
  for (const char* bad : {"", "{", "nope", "{\"a\":1} x", "\"\xff\"", "[1,]", "'a'"}) {
    EXPECT_EQ(parse_json(bad).status().code(), Code::kInvalid) << bad;
  }
}

TEST(ParseJson, RefusesDeepNestingWithoutRecursion) {
  EXPECT_TRUE(parse_json(std::string(32, '[') + std::string(32, ']')).ok());
  EXPECT_FALSE(parse_json(std::string(33, '[') + std::string(33, ']')).ok());
  EXPECT_FALSE(parse_json(std::string(1'000'000, '[')).ok());
  // Brackets in strings do not nest, escaped quotes do not end strings.
  EXPECT_TRUE(parse_json("\"" + std::string(100, '[') + "\"").ok());
  EXPECT_TRUE(parse_json("\"\\\"" + std::string(100, '{') + "\"").ok());
}

TEST(DumpJson, NeverFailsOnBytesThatAreNotText) {
  EXPECT_EQ(dump_json(Json{{"a", "\xff"}}), "{\"a\":\"\xEF\xBF\xBD\"}");
}

TEST(Params, ReadsWhatIsThere) {
  const Json json{{"name", "a"}, {"size", 7}, {"on", true}, {"list", {"x", "y"}}, {"p", "random"}};
  Params params(json);
  EXPECT_EQ(params.text("name"), "a");
  EXPECT_EQ(params.number("size"), 7U);
  EXPECT_TRUE(params.flag("on"));
  EXPECT_EQ(params.texts("list"), (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(params.optional_erase_policy("p"), ErasePolicy::kRandom);
  EXPECT_FALSE(params.optional_number("absent").has_value());
  EXPECT_EQ(params.number_or("absent", 3), 3U);
  EXPECT_TRUE(params.done().ok()) << params.done().message();
}

TEST(Params, NamesWhatIsWrong) {
  const auto message = [](const Json& json, auto read) {
    Params params(json);
    read(params);
    return std::string(params.done().message());
  };
  EXPECT_EQ(message(Json::object(), [](Params& p) { (void)p.text("name"); }),
            "parameter \"name\" is missing");
  EXPECT_EQ(message(Json{{"name", 1}}, [](Params& p) { (void)p.text("name"); }),
            "parameter \"name\" must be a string");
  EXPECT_EQ(message(Json{{"on", 1}}, [](Params& p) { (void)p.flag("on"); }),
            "parameter \"on\" must be true or false");
  for (const Json& bad : {Json(-1), Json(1.5), Json("1"), Json(nullptr), Json(1ULL << 63U)}) {
    EXPECT_EQ(message(Json{{"n", bad}}, [](Params& p) { (void)p.number("n"); }),
              "parameter \"n\" must be a whole number from 0 to 9223372036854775807")
        << bad.dump();
  }
  EXPECT_EQ(message(Json{{"p", "burn"}}, [](Params& p) { (void)p.optional_erase_policy("p"); }),
            "parameter \"p\" must be zero, random, discard or none");
  EXPECT_NE(
      message(Json{{"name", std::string(5000, 'a')}}, [](Params& p) { (void)p.text("name"); }), "");
  EXPECT_NE(message(Json{{"list", {"a", 1}}}, [](Params& p) { (void)p.texts("list"); }), "");
  EXPECT_NE(message(Json::array({1}), [](Params&) {}), "");
}

TEST(Params, RefusesMembersNobodyAskedFor) {
  const Json json{{"name", "a"}, {"sise", 1}};
  Params params(json);
  EXPECT_EQ(params.text("name"), "a");
  EXPECT_EQ(params.number_or("size", 5), 5U);
  EXPECT_EQ(params.done().code(), Code::kInvalid);
  EXPECT_NE(std::string(params.done().message()).find("sise"), std::string::npos);
}

TEST(Params, NullIsNoParameters) {
  const Json json = nullptr;
  EXPECT_TRUE(Params(json).done().ok());
}

}  // namespace
}  // namespace voltree
