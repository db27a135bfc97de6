// score_camera BUNDLE [CAMERA]: scores what a camera shows until it ends; CAMERA is a number, a file or an address.

#include <iostream>
#include <string>

#include <opencv2/videoio.hpp>

#include "fthnet.hpp"

int main(int count, char** arguments) {
  if (count < 2) {
    std::cerr << "score_camera BUNDLE [CAMERA]\n";
    return 2;
  }
  try {
    fthnet::Scorer scorer(arguments[1]);
    const std::string source = count > 2 ? arguments[2] : "0";
    cv::VideoCapture camera;
    const bool number = source.find_first_not_of("0123456789") == std::string::npos;
    if (!(number ? camera.open(std::stoi(source)) : camera.open(source))) {
      std::cerr << source << ": expected a camera, found none that can be opened\n";
      return 5;
    }
    camera.set(cv::CAP_PROP_BUFFERSIZE, 1);  // the newest frame, where the driver listens
    for (cv::Mat frame; camera.read(frame);) {
      const fthnet::Score score = scorer.score(frame);
      if (score.value)
        std::cout << *score.value << ' ' << name(score.verdict) << std::endl;
      else
        std::cout << "- " << name(score.reason) << std::endl;
    }
  } catch (const fthnet::Error& error) {
    std::cerr << error.what() << '\n';
    return error.kind == fthnet::Error::Kind::bundle ? 4 : error.kind == fthnet::Error::Kind::engine ? 6 : 3;
  }
  return 0;
}
