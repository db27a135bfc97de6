// The numbers below are those of edge/model/field.py, preprocess.py and inference/retina_gate.py, under their names.

#include "fthnet.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <numeric>
#include <sstream>
#include <unordered_map>

#include <onnxruntime_cxx_api.h>
#include <opencv2/imgproc.hpp>

#ifdef FTHNET_SIGNATURES
#include <openssl/evp.h>
#include <openssl/pem.h>
#endif

namespace fthnet {
namespace {

constexpr int kInput = 384, kResize = 512, kMargin = (kResize - kInput) / 2, kMaxSide = 12000;

// ---------------------------------------------------------------------------------------------- the field

constexpr int kFieldProbe = 128, kFieldMinLevel = 8, kFieldLevel = 12, kFieldMinSide = 4, kRounds = 12;
constexpr int kLeastRegion = 40, kEdgeStep = 10, kEdgeShare = 90, kBarMax = 50, kBarPlain = 40, kBarSame = 4;
constexpr int kSame = 10, kFlat = 8, kPageCorner = 2, kPageMin = 250, kPageSame = 95, kPageEdge = 16;
constexpr int kTwinSide = 60, kLong = 150, kFilled = 70, kWide = 75, kNotch = 12;

const cv::Mat& neighbours() {
  static const cv::Mat kernel = cv::Mat::ones(3, 3, CV_8U);
  return kernel;
}

struct Region {
  int area, top, left, rows, columns, label;
  int side() const { return std::max(rows, columns); }
  cv::Rect window() const { return {left, top, columns, rows}; }
};

struct Lit {
  int level = 0;
  cv::Mat labels;
  std::vector<Region> regions;  // largest first
  bool has(int least) const { return !regions.empty() && regions.front().side() >= least; }
};

cv::Mat peak_of(const cv::Mat& image) {
  cv::Mat channels[3], peak;
  cv::split(image, channels);
  cv::max(channels[0], channels[1], peak);
  cv::max(peak, channels[2], peak);
  return peak;
}

// Median of sorted values, the upper one of an even number.
int upper_median(std::vector<uchar>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Lit find_lit(const cv::Mat& probe) {
  cv::Mat peak = peak_of(probe);
  if (std::min(peak.rows, peak.cols) >= 5) cv::medianBlur(peak, peak, 5);
  std::array<std::int64_t, 256> counts{};
  for (int y = 0; y < peak.rows; ++y)
    for (int x = 0; x < peak.cols; ++x) ++counts[peak.at<uchar>(y, x)];
  const auto all = static_cast<std::int64_t>(peak.total());
  int bright = 0;
  for (std::int64_t below = counts[0]; below * 100 < all * 95; below += counts[static_cast<std::size_t>(bright)]) ++bright;
  Lit lit;
  lit.level = std::max(kFieldMinLevel, kFieldLevel * bright / 100);
  cv::Mat stats, centres;
  const int count = cv::connectedComponentsWithStats(peak > lit.level, lit.labels, stats, centres, 8, CV_32S);
  for (int k = 1; k < count; ++k) {
    const int* row = stats.ptr<int>(k);
    lit.regions.push_back({row[cv::CC_STAT_AREA], row[cv::CC_STAT_TOP], row[cv::CC_STAT_LEFT],
                           row[cv::CC_STAT_HEIGHT], row[cv::CC_STAT_WIDTH], k});
  }
  std::stable_sort(lit.regions.begin(), lit.regions.end(), [](const Region& a, const Region& b) {
    return std::make_tuple(-a.area, a.top, a.left) < std::make_tuple(-b.area, b.top, b.left);
  });
  return lit;
}

// For each row but the last two, whether nearly all its pixels step to the row two below.
std::vector<bool> straight_edges(const cv::Mat& image) {
  if (image.rows < 4) return {};
  cv::Mat difference;
  cv::absdiff(image.rowRange(2, image.rows), image.rowRange(0, image.rows - 2), difference);
  const cv::Mat steps = peak_of(difference) >= kEdgeStep;
  std::vector<bool> edges;
  for (int y = 0; y < steps.rows; ++y) edges.push_back(100 * cv::countNonZero(steps.row(y)) >= kEdgeShare * image.cols);
  return edges;
}

// Whether many lit pixels have the median colour of their row.
bool rows_are_plain(const cv::Mat& bar, int level) {
  int lit = 0, same = 0;
  for (int y = 0; y < bar.rows; ++y) {
    const auto* row = bar.ptr<cv::Vec3b>(y);
    cv::Vec3i median;
    for (int c = 0; c < 3; ++c) {
      std::vector<uchar> values;
      for (int x = 0; x < bar.cols; ++x) values.push_back(row[x][c]);
      median[c] = upper_median(values);
    }
    for (int x = 0; x < bar.cols; ++x) {
      if (std::max({row[x][0], row[x][1], row[x][2]}) <= level) continue;
      ++lit;
      int farthest = 0;
      for (int c = 0; c < 3; ++c) farthest = std::max(farthest, std::abs(row[x][c] - median[c]));
      same += farthest <= kBarSame;
    }
  }
  return 100 * same >= kBarPlain * lit;
}

bool is_plain(const cv::Mat& bar, int level) {
  if (rows_are_plain(bar, level)) return true;
  return bar.rows >= 3 && rows_are_plain(bar.t(), level);
}

// Depth of a bar at the beginning of the rows of an image; 0: there is none.
int bar_depth(const cv::Mat& image, int level) {
  const std::vector<bool> edges = straight_edges(image);
  const auto first = std::find(edges.begin(), edges.end(), true);
  if (first == edges.end()) return 0;
  const int depth = static_cast<int>(std::find(first, edges.end(), false) - edges.begin());
  const int inside = static_cast<int>(first - edges.begin()) + 1;
  return 100 * depth <= kBarMax * image.rows && is_plain(image.rowRange(0, inside), level) ? depth : 0;
}

bool blacken_bar(cv::Mat window, int level) {
  for (const bool turned : {false, true}) {
    cv::Mat image = turned ? cv::Mat(window.t()) : window.clone();
    for (const bool reversed : {false, true}) {
      if (reversed) cv::flip(image, image, 0);
      const int depth = bar_depth(image, level);
      if (depth == 0) continue;
      const int from = reversed ? image.rows - depth : 0;
      const cv::Range bar(from, from + depth);
      (turned ? window.colRange(bar) : window.rowRange(bar)).setTo(cv::Scalar::all(0));
      return true;
    }
  }
  return false;
}

// A flat area with its rim, if it has one colour and ends sharply; otherwise empty.
cv::Mat page_of(const cv::Mat& window, const cv::Mat& area, const cv::Mat& relief) {
  std::array<std::vector<uchar>, 3> values;
  for (int y = 0; y < window.rows; ++y)
    for (int x = 0; x < window.cols; ++x)
      if (area.at<uchar>(y, x))
        for (std::size_t c = 0; c < 3; ++c) values[c].push_back(window.at<cv::Vec3b>(y, x)[static_cast<int>(c)]);
  const auto count = static_cast<int>(values[0].size());
  const cv::Scalar median(upper_median(values[0]), upper_median(values[1]), upper_median(values[2]));
  cv::Mat difference, whole, grown;
  cv::absdiff(window, median, difference);
  const cv::Mat same = peak_of(difference) <= kSame;
  cv::morphologyEx(area, whole, cv::MORPH_CLOSE, neighbours());
  cv::dilate(whole, grown, neighbours());
  const cv::Mat around = (grown > 0) & (whole == 0);
  const bool one_colour = 100 * cv::countNonZero(area & same) >= kPageSame * count;
  const bool sharp = 2 * cv::countNonZero(around & (relief >= kPageEdge)) >= cv::countNonZero(around);
  return one_colour && sharp ? cv::Mat(area | ((grown > 0) & same)) : cv::Mat();
}

bool blacken_pages(cv::Mat target, int level) {
  const cv::Mat window = target.clone();  // filters look beyond a part of a picture
  const cv::Mat peak = peak_of(window);
  std::vector<cv::Rect> corners;
  for (const int y : {0, window.rows - kPageCorner})
    for (const int x : {0, window.cols - kPageCorner}) corners.emplace_back(x, y, kPageCorner, kPageCorner);
  if (std::none_of(corners.begin(), corners.end(),
                   [&](const cv::Rect& corner) { return cv::countNonZero(peak(corner) > level) > 0; }))
    return false;
  cv::Mat high, low, range, labels, stats, centres;
  cv::dilate(window, high, neighbours());
  cv::erode(window, low, neighbours());
  cv::subtract(high, low, range);
  const cv::Mat relief = peak_of(range);
  cv::connectedComponentsWithStats((relief <= kFlat) & (peak > level), labels, stats, centres, 4, CV_32S);
  std::vector<int> seen;
  for (const cv::Rect& corner : corners)
    for (int y = corner.y; y < corner.br().y; ++y)
      for (int x = corner.x; x < corner.br().x; ++x) {
        const int label = labels.at<int>(y, x);
        if (label != 0 && std::find(seen.begin(), seen.end(), label) == seen.end()) seen.push_back(label);
      }
  bool found = false;
  for (const int label : seen) {
    if (static_cast<std::size_t>(kPageMin) * static_cast<std::size_t>(stats.at<int>(label, cv::CC_STAT_AREA)) < peak.total())
      continue;
    const cv::Mat page = page_of(window, labels == label, relief);
    if (page.empty()) continue;
    target.setTo(cv::Scalar::all(0), page);
    found = true;
  }
  return found;
}

bool blacken_artificial(cv::Mat& probe, const Region& region, int level) {
  if (std::min(region.rows, region.columns) < kLeastRegion) return false;
  const cv::Mat window = probe(region.window());
  return blacken_bar(window, level) || blacken_pages(window, level);
}

bool is_twin(const Region& other, const Region& field) {
  const bool beside = other.left >= field.left + field.columns || field.left >= other.left + other.columns ||
                      other.top >= field.top + field.rows || field.top >= other.top + other.rows;
  const bool compact = 100 * std::min(other.rows, other.columns) >= kTwinSide * other.side();
  const bool filled = 2 * other.area >= other.rows * other.columns;
  return beside && compact && filled && 100 * other.side() >= kTwinSide * field.side();
}

bool is_pair(const cv::Mat& labels, const Region& region) {
  cv::Mat own = labels(region.window()) == region.label;
  if (region.columns > region.rows) own = own.t();
  const int length = own.rows, width = own.cols;
  if (100 * length < kLong * width || 100 * region.area < kFilled * length * width) return false;
  int first_half = 0, second_half = 0;
  bool notched = false;
  for (int y = 0; y < length; ++y) {
    const uchar* row = own.ptr(y);
    const auto before = static_cast<int>(std::find_if(row, row + width, [](uchar v) { return v != 0; }) - row);
    int after = 0;
    while (after < width && row[width - 1 - after] == 0) ++after;
    int& widest = y < length / 2 ? first_half : second_half;
    widest = std::max(widest, width - before - after);
    if (y >= length / 3 && y < length - length / 3) notched = notched || 100 * std::min(before, after) >= kNotch * width;
  }
  return 100 * std::min(first_half, second_half) >= kWide * width && notched;
}

int grid(int side) { return side < 2048 ? 8 : 32; }

int floor_half(int value) { return value >= 0 ? value / 2 : -((1 - value) / 2); }

cv::Rect square(int x, int y, int width, int height) {
  int side = std::max(width, height);
  side += (grid(side) - side % grid(side)) % grid(side);
  return {x + floor_half(width - side), y + floor_half(height - side), side, side};
}

// ------------------------------------------------------------------------------------- the network's input

// Pixels of a box, black beyond the frame.
cv::Mat cut(const cv::Mat& image, const cv::Rect& box) {
  const cv::Rect frame(0, 0, image.cols, image.rows);
  const cv::Rect inside = box & frame;
  if (inside == box) return image(box);
  cv::Mat padded(box.size(), image.type(), cv::Scalar::all(0));
  if (!inside.empty()) image(inside).copyTo(padded(inside - box.tl()));
  return padded;
}

cv::Mat shrink(cv::Mat image, int side) {
  while (image.cols >= 4 * side && image.rows >= 4 * side && ((image.rows | image.cols) & 1) == 0) {
    cv::Mat half;
    cv::resize(image, half, {image.cols / 2, image.rows / 2}, 0, 0, cv::INTER_AREA);
    image = half;
  }
  const bool shrinks = image.cols >= side && image.rows >= side;
  cv::Mat resized;
  cv::resize(image, resized, {side, side}, 0, 0, shrinks ? cv::INTER_AREA : cv::INTER_LINEAR);
  return resized;
}

// One pass of Pillow's antialiased bilinear resize, along the rows, in its fixed point: weights of 22 binary places.
cv::Mat pillow_rows(const cv::Mat& image, int out) {
  constexpr double kUnit = 1 << 22;
  const double scale = static_cast<double>(image.cols) / out, reach = std::max(scale, 1.0);
  cv::Mat resized(image.rows, out, CV_8UC3);
  for (int x = 0; x < out; ++x) {
    const double middle = (x + 0.5) * scale;
    const int first = std::max(static_cast<int>(std::floor(middle - reach + 0.5)), 0);
    const int last = std::min(static_cast<int>(std::floor(middle + reach + 0.5)), image.cols);
    std::vector<double> weights;
    for (int at = first; at < last; ++at) weights.push_back(std::max(1 - std::abs((at + 0.5 - middle) / reach), 0.0));
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    std::vector<std::int64_t> fixed;
    for (const double weight : weights) fixed.push_back(static_cast<std::int64_t>(std::floor(weight / sum * kUnit + 0.5)));
    for (int y = 0; y < image.rows; ++y) {
      const auto* row = image.ptr<cv::Vec3b>(y) + first;
      std::array<std::int64_t, 3> sums{1 << 21, 1 << 21, 1 << 21};
      for (std::size_t i = 0; i < fixed.size(); ++i)
        for (int c = 0; c < 3; ++c) sums[static_cast<std::size_t>(c)] += fixed[i] * row[i][c];
      for (int c = 0; c < 3; ++c)
        resized.at<cv::Vec3b>(y, x)[c] = static_cast<uchar>(std::min<std::int64_t>(sums[static_cast<std::size_t>(c)] >> 22, 255));
    }
  }
  return resized;
}

// The whole box at 512x512: what views are cut from.
cv::Mat canonical(const cv::Mat& bgr, const cv::Rect& box, bool pillow) {
  const cv::Mat field = cut(bgr, box);
  return pillow ? cv::Mat(pillow_rows(pillow_rows(field, kResize).t(), kResize).t()) : shrink(field, kResize);
}

cv::Mat rgb_of(const cv::Mat& bgr) {
  cv::Mat rgb;
  cv::cvtColor(bgr, rgb, cv::COLOR_BGR2RGB);
  return rgb;
}

cv::Mat centre(const cv::Mat& bgr, const cv::Rect& box, bool pillow) {
  const int least = std::min(box.width, box.height);
  if (pillow || least < kResize || box.width % grid(box.width) != 0 || box.height % grid(box.height) != 0)
    return canonical(bgr, box, pillow)(cv::Rect(kMargin, kMargin, kInput, kInput));
  const cv::Rect inner(box.x + box.width / 8, box.y + box.height / 8, box.width * 3 / 4, box.height * 3 / 4);
  return shrink(cut(bgr, inner), kInput);
}

struct View {
  int top, left;
  bool mirrored;
};

constexpr View kFiveViews[] = {{kMargin, kMargin, false}, {0, 0, false}, {0, 128, false}, {128, 0, false}, {128, 128, false}};
// numpy.random.default_rng(0).integers(0, (129, 129, 2), size=(20, 3))
constexpr View kTwentyViews[] = {
    {109, 82, true}, {34, 39, false}, {9, 2, false},   {104, 83, true}, {64, 78, true},  {94, 81, true}, {72, 120, false},
    {105, 86, false}, {50, 110, true}, {4, 98, true},   {109, 22, false}, {111, 2, true},  {10, 38, false}, {54, 52, false},
    {0, 16, false},  {86, 67, true},  {33, 79, true},  {49, 59, true},  {103, 126, false}, {88, 122, true}};

// The network's input, and the centre, which the gate judges whatever the views are.
std::pair<std::vector<cv::Mat>, cv::Mat> views_with_centre(const cv::Mat& bgr, const cv::Rect& box, int views, bool pillow) {
  if (views == 1) {
    const cv::Mat middle = rgb_of(centre(bgr, box, pillow));
    return {{middle}, middle};
  }
  if (views != 5 && views != 20) throw Error(Error::Kind::input, "views: expected 1, 5 or 20, found " + std::to_string(views));
  const cv::Mat whole = rgb_of(canonical(bgr, box, pillow));
  std::vector<cv::Mat> found;
  const View* first = views == 5 ? kFiveViews : kTwentyViews;
  for (const View* view = first; view != first + views; ++view) {
    cv::Mat cropped = whole(cv::Rect(view->left, view->top, kInput, kInput)).clone();
    if (view->mirrored) cv::flip(cropped, cropped, 1);
    found.push_back(cropped);
  }
  return {found, whole(cv::Rect(kMargin, kMargin, kInput, kInput))};
}

// ------------------------------------------------------------------------------------------------ the gate

constexpr int kSide = 96;
constexpr float kBlack = 6;
constexpr double kDarkLevel = 20, kLitLevel = 0.15, kColourLevel = 0.25, kLitShare = 0.2;
constexpr double kBluer = 1.4, kGrayish = 0.95, kHues = 1.16, kStep = 0.06, kStepShare = 0.25;
constexpr double kWhiteLevel = 225, kWhiteBlue = 0.5, kWhiteShare = 0.2, kWhiteStepShare = 0.12;

template <typename Number>
double percentile(std::vector<Number> values, double percent) {
  std::sort(values.begin(), values.end());
  const double at = percent / 100 * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const double low = values[below], high = values[std::min(below + 1, values.size() - 1)];
  return low + (high - low) * (at - static_cast<double>(below));
}

cv::Mat smooth(const cv::Mat& channel, double sigma) {
  cv::Mat floats, blurred;
  channel.convertTo(floats, CV_32F);
  cv::GaussianBlur(floats, blurred, {0, 0}, sigma);
  return blurred;
}

bool is_gray_or_blue(const cv::Mat& red, const cv::Mat& blue, const cv::Mat& coloured) {
  const cv::Mat above = smooth(blue, 1) + kBlack, below = smooth(red, 1) + kBlack;
  std::vector<float> ratio;
  for (int y = 0; y < coloured.rows; ++y)
    for (int x = 0; x < coloured.cols; ++x)
      if (coloured.at<uchar>(y, x)) ratio.push_back(std::log(above.at<float>(y, x) / below.at<float>(y, x)));
  const double middle = percentile(ratio, 50), hues = percentile(ratio, 90) - percentile(ratio, 10);
  return middle > std::log(kBluer) || (middle > std::log(kGrayish) && hues < std::log(kHues));
}

// Part of the field in which log green is steep, without the view's border; no number where nothing is lit there.
double step_share(const cv::Mat& green, const cv::Mat& lit) {
  cv::Mat logs, across, down, slope;
  cv::log(smooth(green, 2) + kBlack, logs);
  cv::Sobel(logs, across, CV_32F, 1, 0, 3, 1.0 / 8);
  cv::Sobel(logs, down, CV_32F, 0, 1, 3, 1.0 / 8);
  cv::magnitude(across, down, slope);
  const cv::Rect inner(4, 4, kSide - 8, kSide - 8);
  const cv::Mat inside = lit(inner), steep = slope(inner) > kStep;
  const int count = cv::countNonZero(inside);
  return count ? static_cast<double>(cv::countNonZero(steep & inside)) / count : std::numeric_limits<double>::quiet_NaN();
}

double share_of(const cv::Mat& mask) { return static_cast<double>(cv::countNonZero(mask)) / static_cast<double>(mask.total()); }

// ---------------------------------------------------------------------------------------------- the bundle

class Sha256 {  // FIPS 180-4
 public:
  static std::string of(const std::vector<char>& data) {
    Sha256 hash;
    std::vector<std::uint8_t> tail(data.end() - static_cast<std::ptrdiff_t>(data.size() % 64), data.end());
    for (std::size_t at = 0; at + 64 <= data.size(); at += 64) hash.block(reinterpret_cast<const std::uint8_t*>(&data[at]));
    tail.push_back(0x80);
    while (tail.size() % 64 != 56) tail.push_back(0);
    const std::uint64_t bits = 8 * static_cast<std::uint64_t>(data.size());
    for (int shift = 56; shift >= 0; shift -= 8) tail.push_back(static_cast<std::uint8_t>(bits >> shift));
    for (std::size_t at = 0; at < tail.size(); at += 64) hash.block(&tail[at]);
    std::string text;
    for (const std::uint32_t word : hash.state_)
      for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
    return text;
  }

 private:
  static std::uint32_t turn(std::uint32_t value, int by) { return value >> by | value << (32 - by); }

  static std::array<std::uint32_t, 64> constants() {
    return {0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
            0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
            0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
            0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
            0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
            0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
            0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
            0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  }

  void block(const std::uint8_t* bytes) {
    static const std::array<std::uint32_t, 64> k = constants();
    std::array<std::uint32_t, 64> w{};
    for (std::size_t i = 0; i < 16; ++i)
      w[i] = std::uint32_t{bytes[4 * i]} << 24 | std::uint32_t{bytes[4 * i + 1]} << 16 |
             std::uint32_t{bytes[4 * i + 2]} << 8 | bytes[4 * i + 3];
    for (std::size_t i = 16; i < 64; ++i) {
      const std::uint32_t s0 = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3;
      const std::uint32_t s1 = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint32_t t1 = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i];
      const std::uint32_t t2 = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const std::array<std::uint32_t, 8> added{a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) state_[i] += added[i];
  }

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
};

std::vector<char> read_file(const std::filesystem::path& path);

// A file that the card names; where its delta lies in its place (edge/model/delta.py), what that stands for.
std::vector<char> read_part(const std::filesystem::path& path) {
  constexpr std::uint64_t most = 1u << 29;
  const std::filesystem::path packed = path.string() + ".delta";
  if (std::filesystem::exists(path) || !std::filesystem::exists(packed)) return read_file(path);
  const Error broken(Error::Kind::bundle,
                     packed.string() + ": expected a delta of a model, found another file; copy the bundle again");
  const std::vector<char> delta = read_file(packed);
  auto at = std::find(delta.begin(), delta.end(), '\n');
  std::istringstream head(std::string(delta.begin(), at));
  std::string kind, version, name;
  std::uint64_t size = 0;
  if (at == delta.end() || !(head >> kind >> version >> name >> size) || kind + version != "fthnet-delta1" ||
      name.find('/') != std::string::npos || size > most)
    throw broken;
  const std::vector<char> base = read_file(path.parent_path() / name);
  std::vector<char> content;
  content.reserve(size);
  ++at;
  while (content.size() < size) {
    std::array<std::uint64_t, 3> piece{};
    if (delta.end() - at < 24) throw broken;
    for (std::uint64_t& number : piece)
      for (int byte = 0; byte < 8; ++byte) number |= std::uint64_t{static_cast<std::uint8_t>(*at++)} << 8 * byte;
    const auto [offset, copied, added] = piece;
    const std::uint64_t left = size - content.size(), here = static_cast<std::uint64_t>(delta.end() - at);
    if (copied > left || added > left - copied || added > here || copied + added == 0 || offset > base.size() ||
        copied > base.size() - offset)
      throw broken;
    const auto from = base.begin() + static_cast<std::ptrdiff_t>(offset);
    const auto behind = at + static_cast<std::ptrdiff_t>(added);
    content.insert(content.end(), from, from + static_cast<std::ptrdiff_t>(copied));
    content.insert(content.end(), at, behind);
    at = behind;
  }
  if (at != delta.end()) throw broken;
  return content;
}

std::vector<char> read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file.is_open() || file.bad())
    throw Error(Error::Kind::bundle, path.string() + ": expected a file of the bundle, found none that can be read");
  return content;
}

// ---------------------------------------------------------------------------------------------- signatures

struct SignedFile {
  double size;
  std::string sha256;
};

#ifdef FTHNET_SIGNATURES
constexpr const char* kPurpose = "fthnet-edge-kit bundle 1\n";  // signed before the manifest

bool is_signed_by(const std::filesystem::path& key_file, const std::vector<char>& manifest, const std::vector<char>& signature) {
  const std::vector<char> pem = read_file(key_file);
  const std::unique_ptr<BIO, decltype(&BIO_free)> memory(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
  const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
      PEM_read_bio_PUBKEY(memory.get(), nullptr, nullptr, nullptr), EVP_PKEY_free);
  if (!key || EVP_PKEY_id(key.get()) != EVP_PKEY_ED25519)
    throw Error(Error::Kind::input, key_file.string() + ": expected an Ed25519 public key of `fthnet bundle keygen`, found another file");
  std::string text = kPurpose;
  text.append(manifest.begin(), manifest.end());
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  return EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
         EVP_DigestVerify(context.get(), reinterpret_cast<const unsigned char*>(signature.data()), signature.size(),
                          reinterpret_cast<const unsigned char*>(text.data()), text.size()) == 1;
}
#endif

// Size and hash of every signed file; empty where no signature is asked for.
std::unordered_map<std::string, SignedFile> signed_files(const std::filesystem::path& folder, const Options& options) {
  if (options.require_signature.empty()) return {};
#ifdef FTHNET_SIGNATURES
  const std::filesystem::path path = folder / "signed_manifest.json";
  if (!std::filesystem::exists(path))
    throw Error(Error::Kind::bundle, folder.string() + ": expected a signed bundle, found it unsigned; `fthnet bundle sign` signs one");
  const std::vector<char> text = read_file(path);
  if (!is_signed_by(options.require_signature, text, read_file(folder / "signed_manifest.sig")))
    throw Error(Error::Kind::bundle, folder.string() + ": expected the signature of " + options.require_signature.string() +
                                         ", found an unknown key or a manifest that was altered");
  std::unordered_map<std::string, SignedFile> files;
  cv::FileStorage storage(std::string(text.begin(), text.end()),
                          cv::FileStorage::READ | cv::FileStorage::MEMORY | cv::FileStorage::FORMAT_JSON);
  const auto release = static_cast<std::int64_t>(storage["release"].real());
  if (release < options.least_release)
    throw Error(Error::Kind::bundle, folder.string() + ": expected release " + std::to_string(options.least_release) +
                                         " or newer, found release " + std::to_string(release));
  for (const cv::FileNode& file : storage["files"]) files[file.name()] = {file["bytes"].real(), file["sha256"].string()};
  return files;
#else
  throw Error(Error::Kind::bundle, folder.string() + ": a signature is asked for, and this build checks none; "
                                                     "compile with -DFTHNET_SIGNATURES and OpenSSL");
#endif
}

// Throws Error where bytes are not those of the signed file.
void check_signed(const std::unordered_map<std::string, SignedFile>& files, const std::filesystem::path& folder,
                  const std::string& name, const std::vector<char>& content) {
  const auto found = files.find(name);
  if (found == files.end() || found->second.size != static_cast<double>(content.size()) ||
      found->second.sha256 != Sha256::of(content))
    throw Error(Error::Kind::bundle, (folder / name).string() + ": expected the file that was signed, found another");
}

struct Bundle {
  Card card;
  std::vector<char> model;  // the bytes that were hashed are the bytes that run
};

Card parse_card(cv::FileStorage& storage) {
  Card card;
  storage["name"] >> card.name;
  storage["version"] >> card.version;
  storage["manufacturer"] >> card.manufacturer;
  const cv::FileNode how = storage["preprocessing"], thresholds = storage["thresholds"];
  const std::string crop = how["field_crop"].string();
  card.square = crop == "square";
  const std::string resize = how["resize"].empty() ? "area" : how["resize"].string();
  card.pillow = resize == "pil";
  card.views = how["views"];
  card.seed = how["seed"].empty() ? 0 : static_cast<int>(how["seed"]);
  card.usable = thresholds["usable"].real();
  card.good = thresholds["good"].real();
  const cv::FileNode range = storage["raw_range"];
  if (!range.empty()) {
    card.raw_low = range["low"].real();
    card.raw_high = range["high"].real();
  }
  if (static_cast<int>(storage["schema"]) != 1 || (!card.square && crop != "none") || (!card.pillow && resize != "area") ||
      card.views < 1 ||
      !(0 <= card.usable && card.usable <= card.good && card.good <= 100))
    throw Error(Error::Kind::bundle, "schema, preprocessing or thresholds are not what this version reads");
  return card;
}

Bundle open_bundle(const std::filesystem::path& folder, const Options& options) {
  const std::string& wanted = options.file;
  const std::filesystem::path path = folder / "model_card.json";
  const std::unordered_map<std::string, SignedFile> files_signed = signed_files(folder, options);
  const std::vector<char> text = read_file(path);
  if (!files_signed.empty()) check_signed(files_signed, folder, "model_card.json", text);
  Bundle bundle;
  std::vector<std::pair<std::string, std::string>> files;
  try {
    cv::FileStorage storage(std::string(text.begin(), text.end()),
                            cv::FileStorage::READ | cv::FileStorage::MEMORY | cv::FileStorage::FORMAT_JSON);
    bundle.card = parse_card(storage);
    for (const cv::FileNode& file : storage["files"]) files.emplace_back(file.name(), file.string());
  } catch (const std::exception& error) {
    throw Error(Error::Kind::bundle, path.string() + ": expected a model card, found: " + error.what());
  }
  bool found = false;
  for (const auto& [file, expected] : files) {
    std::vector<char> content = read_part(folder / file);
    if (Sha256::of(content) != expected)
      throw Error(Error::Kind::bundle, (folder / file).string() + ": expected SHA-256 " + expected.substr(0, 12) +
                                           "…, found another: the file was altered or damaged; copy the bundle again");
    const bool whole = std::filesystem::exists(folder / file);  // otherwise its delta was signed
    const std::string lies = whole ? file : file + ".delta";
    if (!files_signed.empty()) check_signed(files_signed, folder, lies, whole ? content : read_file(folder / lies));
    if (file != wanted) continue;
    bundle.model = std::move(content);
    found = true;
  }
  if (!found)
    throw Error(Error::Kind::bundle, folder.string() + ": expected " + wanted + " in the card's list of files, found none");
  return bundle;
}

// -------------------------------------------------------------------------------------------- ONNX Runtime

Ort::Env& environment() {
  static Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "fthnet");
  return env;
}

Ort::SessionOptions session_options(const Options& options) {
  Ort::SessionOptions settings;
  settings.SetIntraOpNumThreads(options.threads);
  settings.SetInterOpNumThreads(1);
  settings.AddConfigEntry("session.intra_op.allow_spinning", "0");  // leave the cores to the camera
  if (options.provider == "cuda") {
    OrtCUDAProviderOptionsV2* cuda = nullptr;
    Ort::ThrowOnError(Ort::GetApi().CreateCUDAProviderOptions(&cuda));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> owner(
        cuda, [](OrtCUDAProviderOptionsV2* each) { Ort::GetApi().ReleaseCUDAProviderOptions(each); });
    const char *key = "use_tf32", *value = "0";  // ten bits of mantissa are not FP32
    Ort::ThrowOnError(Ort::GetApi().UpdateCUDAProviderOptions(cuda, &key, &value, 1));
    settings.AppendExecutionProvider_CUDA_V2(*cuda);
  } else if (options.provider == "tensorrt") {
    OrtTensorRTProviderOptionsV2* tensorrt = nullptr;  // its switches for FP16 and INT8 are off: the graph's own types
    Ort::ThrowOnError(Ort::GetApi().CreateTensorRTProviderOptions(&tensorrt));
    const std::unique_ptr<OrtTensorRTProviderOptionsV2, void (*)(OrtTensorRTProviderOptionsV2*)> owner(
        tensorrt, [](OrtTensorRTProviderOptionsV2* each) { Ort::GetApi().ReleaseTensorRTProviderOptions(each); });
    settings.AppendExecutionProvider_TensorRT_V2(*tensorrt);
  } else if (options.provider != "cpu") {
    throw Error(Error::Kind::engine, "provider: expected cpu, cuda or tensorrt, found " + options.provider);
  }
  return settings;
}

class Network {
 public:
  Network(const Bundle& bundle, const Options& options)
      : session_(environment(), bundle.model.data(), bundle.model.size(), session_options(options)) {
    const bool one = session_.GetInputCount() == 1 && session_.GetOutputCount() == 1;
    const auto shape = one ? session_.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape() : std::vector<std::int64_t>();
    if (shape.size() != 4 || shape[0] < 1 || shape[1] != kInput || shape[2] != kInput || shape[3] != 3)
      throw Error(Error::Kind::engine, options.file + ": expected one input image uint8 [N, 384, 384, 3] and one output");
    shape_ = shape;
    buffer_.resize(static_cast<std::size_t>(shape[0]) * kViewBytes);
  }

  // Mean score of views in RGB, no number if one is implausible; in batches of the graph's size; the last view fills up the last batch.
  double infer(const std::vector<cv::Mat>& views, const Card& card) {
    const auto batch = static_cast<std::size_t>(shape_[0]);
    double sum = 0;
    for (std::size_t start = 0; start < views.size(); start += batch) {
      for (std::size_t i = 0; i < batch; ++i) {
        cv::Mat slot(kInput, kInput, CV_8UC3, &buffer_[i * kViewBytes]);
        views[std::min(start + i, views.size() - 1)].copyTo(slot);
      }
      const Ort::Value input = Ort::Value::CreateTensor<std::uint8_t>(memory_, buffer_.data(), buffer_.size(), shape_.data(), 4);
      const char *in = "image", *out = "score";
      const std::vector<Ort::Value> scores = session_.Run(Ort::RunOptions{nullptr}, &in, &input, 1, &out, 1);
      const auto count = scores[0].GetTensorTypeAndShapeInfo().GetElementCount();
      if (count != batch) throw Ort::Exception("expected a score a view", ORT_FAIL);
      const float* values = scores[0].GetTensorData<float>();
      for (std::size_t i = 0; i < std::min(batch, views.size() - start); ++i)
        sum += values[i] >= card.raw_low && values[i] <= card.raw_high ? values[i] : std::numeric_limits<double>::quiet_NaN();
    }
    return sum / static_cast<double>(views.size());
  }

 private:
  static constexpr std::size_t kViewBytes = std::size_t{kInput} * kInput * 3;
  Ort::Session session_;
  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<std::int64_t> shape_;
  std::vector<std::uint8_t> buffer_;
};

double ms_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

// ------------------------------------------------------------------------------------------------- public

const char* name(Verdict verdict) {
  static constexpr const char* kNames[] = {"", "good", "usable", "reject"};
  return kNames[static_cast<int>(verdict)];
}

const char* name(Reason reason) {
  static constexpr const char* kNames[] = {"", "no_retina", "ambiguous_field", "engine_fault"};
  return kNames[static_cast<int>(reason)];
}

const char* name(NotRetina rule) {
  static constexpr const char* kNames[] = {"", "dark", "spot", "colour", "steps", "white"};
  return kNames[static_cast<int>(rule)];
}

cv::Mat to_bgr8(const cv::Mat& frame) {
  if (frame.empty())
    throw Error(Error::Kind::input, "frame: expected a picture, found none; cv::imread gives this where it reads no file");
  const int channels = frame.channels();
  if (frame.dims != 2 || (frame.depth() != CV_8U && frame.depth() != CV_16U) ||
      (channels != 1 && channels != 3 && channels != 4))
    throw Error(Error::Kind::input, "frame: expected 1, 3 or 4 channels of 8 or 16 bits, found " + cv::typeToString(frame.type()));
  if (std::max(frame.cols, frame.rows) > kMaxSide)
    throw Error(Error::Kind::input, "frame: expected sides of at most 12000 pixels, found " + std::to_string(frame.cols) +
                                        "x" + std::to_string(frame.rows));
  cv::Mat image = frame;
  if (frame.depth() == CV_16U) {
    image.create(frame.rows, frame.cols, CV_8UC(channels));
    for (int y = 0; y < frame.rows; ++y) {
      const auto* from = frame.ptr<std::uint16_t>(y);
      std::transform(from, from + static_cast<std::ptrdiff_t>(frame.cols) * channels, image.ptr(y),
                     [](std::uint16_t value) { return static_cast<uchar>((value + 128U) / 257U); });
    }
  }
  cv::Mat bgr;
  if (channels == 3) return image;
  cv::cvtColor(image, bgr, channels == 1 ? cv::COLOR_GRAY2BGR : cv::COLOR_BGRA2BGR);
  return bgr;
}

std::optional<cv::Rect> field_box(const cv::Mat& bgr, bool square_field) {
  const int height = bgr.rows, width = bgr.cols;
  if (!square_field) return cv::Rect(0, 0, width, height);
  const int step = std::max(1, std::max(height, width) / kFieldProbe);
  const int top = std::min(step, height) / 2, left = std::min(step, width) / 2;
  cv::Mat probe((height - top + step - 1) / step, (width - left + step - 1) / step, CV_8UC3);
  for (int y = 0; y < probe.rows; ++y)
    for (int x = 0; x < probe.cols; ++x) probe.at<cv::Vec3b>(y, x) = bgr.at<cv::Vec3b>(top + y * step, left + x * step);
  Lit lit = find_lit(probe);
  const int least = (std::min(height, width) + kFieldMinSide * step - 1) / (kFieldMinSide * step);
  int rounds = 0;
  while (lit.has(least) && rounds < kRounds && blacken_artificial(probe, lit.regions.front(), lit.level)) {
    lit = find_lit(probe);
    ++rounds;
  }
  if (lit.has(least)) {
    const Region& field = lit.regions.front();
    if (std::any_of(lit.regions.begin() + 1, lit.regions.end(), [&](const Region& other) { return is_twin(other, field); }) ||
        is_pair(lit.labels, field))
      return std::nullopt;
    const int x = field.left * step, y = field.top * step;
    return square(x, y, std::min(field.columns * step, width - x), std::min(field.rows * step, height - y));
  }
  if (!lit.regions.empty() && rounds > 0) return std::nullopt;
  return square(0, 0, width, height);
}

std::vector<cv::Mat> views_of(const cv::Mat& bgr, const cv::Rect& box, int views, bool pillow) {
  return views_with_centre(bgr, box, views, pillow).first;
}

NotRetina why_not_retina(const cv::Mat& view) {
  cv::Mat small, channels[3], weakest;
  cv::resize(view, small, {kSide, kSide}, 0, 0, cv::INTER_AREA);
  cv::split(small, channels);
  const cv::Mat &red = channels[0], &green = channels[1], &blue = channels[2];
  const cv::Mat peak = peak_of(small);
  const double bright = percentile(std::vector<uchar>(peak.begin<uchar>(), peak.end<uchar>()), 95);
  if (bright < kDarkLevel) return NotRetina::dark;
  const cv::Mat lit = peak > kLitLevel * bright;
  if (share_of(lit) < kLitShare) return NotRetina::spot;
  if (is_gray_or_blue(red, blue, peak > kColourLevel * bright)) return NotRetina::colour;
  const double steps = step_share(green, lit);
  if (steps > kStepShare) return NotRetina::steps;
  cv::min(red, green, weakest);
  cv::min(weakest, blue, weakest);
  cv::Mat half, floats;
  peak.convertTo(half, CV_32F, kWhiteBlue);
  weakest.convertTo(floats, CV_32F);
  const double white = share_of((peak >= kWhiteLevel) & (floats > half));
  return white > kWhiteShare && steps > kWhiteStepShare ? NotRetina::white : NotRetina::none;
}

struct Scorer::Parts {
  Card card;
  int views;
  Network network;
};

Scorer::Scorer(const std::filesystem::path& folder, const Options& options) {
  const Bundle bundle = open_bundle(folder, options);
  const int views = options.views ? options.views : bundle.card.views;
  if (views != 1 && views != 5 && views != 20)
    throw Error(Error::Kind::input, "views: expected 1, 5 or 20, found " + std::to_string(views));
  if (views == 20 && bundle.card.seed != 0)
    throw Error(Error::Kind::bundle, "preprocessing.seed: expected 0 for 20 views, found " + std::to_string(bundle.card.seed));
  try {
    parts_ = std::make_unique<Parts>(Parts{bundle.card, views, Network(bundle, options)});
  } catch (const Ort::Exception& error) {
    throw Error(Error::Kind::engine, options.file + ": ONNX Runtime refused the model: " + error.what());
  }
}

Scorer::~Scorer() = default;
Scorer::Scorer(Scorer&&) noexcept = default;
Scorer& Scorer::operator=(Scorer&&) noexcept = default;

const Card& Scorer::card() const { return parts_->card; }

Score Scorer::score(const cv::Mat& frame) {
  Score score;
  auto start = std::chrono::steady_clock::now();
  const cv::Mat bgr = to_bgr8(frame);
  const std::optional<cv::Rect> box = field_box(bgr, parts_->card.square);
  std::pair<std::vector<cv::Mat>, cv::Mat> input;
  if (box) input = views_with_centre(bgr, *box, parts_->views, parts_->card.pillow);
  const auto& [views, middle] = input;
  score.preprocess_ms = ms_since(start);
  if (!box) {
    score.reason = Reason::ambiguous_field;
    return score;
  }
  start = std::chrono::steady_clock::now();
  const bool retina = why_not_retina(middle) == NotRetina::none;
  score.gate_ms = ms_since(start);
  if (!retina) {
    score.reason = Reason::no_retina;
    return score;
  }
  start = std::chrono::steady_clock::now();
  try {
    score.raw = parts_->network.infer(views, parts_->card);
  } catch (const Ort::Exception&) {
    score.raw = std::numeric_limits<double>::quiet_NaN();
  }
  score.infer_ms = ms_since(start);
  if (!std::isfinite(score.raw)) {
    score.raw = 0;
    score.reason = Reason::engine_fault;
    return score;
  }
  score.value = std::clamp(score.raw, 0.0, 100.0);
  const Card& card = parts_->card;
  score.verdict = *score.value >= card.good ? Verdict::good : *score.value >= card.usable ? Verdict::usable : Verdict::reject;
  return score;
}

}  // namespace fthnet
