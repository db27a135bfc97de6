// write_vectors BUNDLE FOLDER VIEWS [--signed-by=KEY.pub --release=N] PICTURE…: what the C++ makes of pictures, one JSON object a line, and the network's
// input of each as raw RGB in FOLDER.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>

#include <opencv2/imgcodecs.hpp>

#include "fthnet.hpp"

int main(int count, char** arguments) {
  if (count < 4) return 2;
  const int views = std::stoi(arguments[3]);
  try {
    fthnet::Options options;
    options.views = views;
    int first = 4;
    for (; first < count && std::string(arguments[first]).rfind("--", 0) == 0; ++first) {
      const std::string option = arguments[first], value = option.substr(option.find('=') + 1);
      if (option.rfind("--signed-by=", 0) == 0) options.require_signature = value;
      else options.least_release = std::stoi(value);
    }
    fthnet::Scorer scorer(arguments[1], options);
    for (int i = first; i < count; ++i) {
      const std::filesystem::path path = arguments[i];
      const cv::Mat frame = cv::imread(path.string(), cv::IMREAD_UNCHANGED);
      const fthnet::Score score = scorer.score(frame);
      const cv::Mat bgr = fthnet::to_bgr8(frame);
      const auto box = fthnet::field_box(bgr, scorer.card().square);
      std::string box_text = "null", gate = "null";
      if (box) {
        char text[100];
        std::snprintf(text, sizeof text, "[%d, %d, %d, %d]", box->x, box->y, box->width, box->height);
        box_text = text;
        std::ofstream file(std::filesystem::path(arguments[2]) / (path.stem().string() + ".rgb"), std::ios::binary);
        const auto found = fthnet::views_of(bgr, *box, views, scorer.card().pillow);
        for (const cv::Mat& view : found)
          for (int y = 0; y < view.rows; ++y) file.write(view.ptr<char>(y), static_cast<std::streamsize>(view.cols) * 3);
        const fthnet::NotRetina rule = fthnet::why_not_retina(found.front());
        if (rule != fthnet::NotRetina::none) gate = '"' + std::string(name(rule)) + '"';
      }
      std::printf("{\"frame\": \"%s\", \"box\": %s, \"gate\": %s, \"score\": ", path.filename().c_str(), box_text.c_str(), gate.c_str());
      if (score.value)
        std::printf("%.6f", *score.value);
      else
        std::printf("null");
      const std::string reason = name(score.reason), verdict = name(score.verdict);
      std::printf(", \"reason\": %s, \"verdict\": %s, \"ms\": [%.3f, %.3f, %.3f]}\n", reason.empty() ? "null" : ('"' + reason + '"').c_str(),
                  verdict.empty() ? "null" : ('"' + verdict + '"').c_str(), score.preprocess_ms, score.gate_ms, score.infer_ms);
    }
  } catch (const fthnet::Error& error) {
    std::cerr << error.what() << '\n';
    return 10 + static_cast<int>(error.kind);
  }
  return 0;
}
