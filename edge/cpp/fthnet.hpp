// Fundus image quality, 0 to 100, from a frame: the contract of docs/CONTRACT.md in C++17.
// Needs OpenCV (core, imgproc) and ONNX Runtime's C++ API, and nothing else; with FTHNET_SIGNATURES also OpenSSL.
//
//     fthnet::Scorer scorer("demo");                       // a bundle's folder
//     fthnet::Score score = scorer.score(cv::imread("retina.jpg"));
//     if (score.value) std::cout << *score.value << ' ' << fthnet::name(score.verdict) << '\n';
//     else std::cout << fthnet::name(score.reason) << '\n';

#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <opencv2/core.hpp>

namespace fthnet {

// What a caller got wrong. A picture that has no score is no error: `Score::reason` says why.
class Error : public std::runtime_error {
 public:
  enum class Kind { input, bundle, engine };
  Error(Kind kind, const std::string& message) : std::runtime_error(message), kind(kind) {}
  const Kind kind;
};

enum class Verdict { none, good, usable, reject };
enum class Reason { none, no_retina, ambiguous_field, engine_fault };
enum class NotRetina { none, dark, spot, colour, steps, white };  // the gate's rule that a view breaks

// The word that JSON uses; empty for `none`.
const char* name(Verdict verdict);
const char* name(Reason reason);
const char* name(NotRetina rule);

// Either a value with a verdict, or a reason.
struct Score {
  std::optional<double> value;  // 0 to 100
  double raw = 0;               // before it was clipped
  Verdict verdict = Verdict::none;
  Reason reason = Reason::none;
  double preprocess_ms = 0, gate_ms = 0, infer_ms = 0;
};

// What a bundle's model_card.json says to a scorer.
struct Card {
  std::string name, version, manufacturer;
  bool square = true;   // cut out the field; otherwise the whole frame
  bool pillow = false;  // resize as Pillow does, for the authors' weights
  int views = 1;
  int seed = 0;  // of the 20 views; others than 0 are refused
  double usable = 0, good = 0;
  double raw_low = -100, raw_high = 200;  // beyond them a raw value is a fault of the engine
};

struct Options {
  std::string file = "fthnet.fp32.onnx";  // of the bundle
  std::string provider = "cpu";           // "cuda" or "tensorrt" where ONNX Runtime was built with it
  int threads = 0;                        // of one inference on the CPU; 0: all cores
  int views = 0;                          // 1, 5 or 20; 0: the card's
  std::filesystem::path require_signature;  // public key (PEM) that the bundle must be signed with; empty: none
  std::int64_t least_release = 0;           // the smallest signed release that is taken: a device's newest so far
};

// Scores frames with one model. Belongs to one thread at a time; any number of scorers may exist.
class Scorer {
 public:
  // Throws Error: the bundle is missing or altered (`bundle`), or ONNX Runtime refuses (`engine`).
  explicit Scorer(const std::filesystem::path& bundle, const Options& options = {});
  ~Scorer();
  Scorer(Scorer&&) noexcept;
  Scorer& operator=(Scorer&&) noexcept;

  // Frame: BGR, gray or BGRA, 8 or 16 bits. Throws Error (`input`) for anything else, an empty frame among it.
  Score score(const cv::Mat& frame);

  const Card& card() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// The steps, each as docs/CONTRACT.md has it.

// Section 1. Throws Error (`input`).
cv::Mat to_bgr8(const cv::Mat& frame);
// Section 2, of BGR 8 bits; may reach beyond the frame; none where the field cannot be told.
std::optional<cv::Rect> field_box(const cv::Mat& bgr, bool square = true);
// Section 3: RGB 384x384, one a view (1, 5 or 20).
std::vector<cv::Mat> views_of(const cv::Mat& bgr, const cv::Rect& box, int views, bool pillow = false);
// Section 4, of the centre view in RGB.
NotRetina why_not_retina(const cv::Mat& view);

}  // namespace fthnet
