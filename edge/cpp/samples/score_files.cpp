// score_files BUNDLE PICTURE…: one JSON object a line, as `fthnet score --json` names things.

#include <cstdio>
#include <iostream>

#include <opencv2/imgcodecs.hpp>

#include "fthnet.hpp"

namespace {

std::string quoted(const std::string& text) {
  std::string escaped = "\"";
  for (const char each : text) {
    if (each == '"' || each == '\\') escaped += '\\';
    if (static_cast<unsigned char>(each) >= 0x20) escaped += each;
  }
  return escaped + '"';
}

std::string word(const char* name) { return *name ? quoted(name) : "null"; }

std::string json(const std::string& file, const fthnet::Score& score) {
  char numbers[200];
  if (score.value)
    std::snprintf(numbers, sizeof numbers, "\"score\": %.3f, \"raw\": %.3f", *score.value, score.raw);
  else
    std::snprintf(numbers, sizeof numbers, "\"score\": null, \"raw\": null");
  char stages[200];
  std::snprintf(stages, sizeof stages, "{\"preprocess\": %.3f, \"gate\": %.3f, \"infer\": %.3f}", score.preprocess_ms,
                score.gate_ms, score.infer_ms);
  return "{\"file\": " + quoted(file) + ", " + numbers + ", \"verdict\": " + word(name(score.verdict)) +
         ", \"reason\": " + word(name(score.reason)) + ", \"stage_ms\": " + stages + "}";
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::cerr << "score_files BUNDLE PICTURE…\n";
    return 2;
  }
  int unreadable = 0;
  try {
    fthnet::Scorer scorer(arguments[1]);
    for (int i = 2; i < count; ++i) {
      const cv::Mat picture = cv::imread(arguments[i], cv::IMREAD_COLOR);
      if (picture.empty()) {
        std::cerr << arguments[i] << ": expected a picture, found none that can be read\n";
        ++unreadable;
      } else {
        std::cout << json(arguments[i], scorer.score(picture)) << '\n';
      }
    }
  } catch (const fthnet::Error& error) {
    std::cerr << error.what() << '\n';
    return error.kind == fthnet::Error::Kind::bundle ? 4 : error.kind == fthnet::Error::Kind::engine ? 6 : 3;
  }
  return unreadable ? 3 : 0;
}
