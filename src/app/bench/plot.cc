#include "app/bench/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace sluice {

namespace {

// Pixels:  |- left -|------- width -------|- right -|   of one panel
constexpr double kLeft = 62, kWidth = 320, kRight = 18, kTop = 34, kHeight = 240, kBottom = 48;
constexpr double kPanelWidth = kLeft + kWidth + kRight;
// Told apart in grey and by the colour-blind (Okabe and Ito's palette).
constexpr std::array kColors = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"};

std::string escaped(const std::string& text) {
  std::string result;
  for (char c : text) {
    switch (c) {
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '&':
        result += "&amp;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

std::string text_at(double x, double y, const char* anchor, const std::string& text, const char* more = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, anchor, more,
                     escaped(text));
}

// 1, 2 or 5 times a power of ten, so that about five steps reach `range`.
double nice_step(double range) {
  const double rough = range / 5, power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= rough) return factor * power;
  return 10 * power;
}

// The mapping of one panel's values to pixels.
class Axes {
 public:
  Axes(const PlotPanel& panel, double origin_x) : origin_x_(origin_x) {
    double low = INFINITY, high = 0;
    for (const PlotSeries& series : panel.series)
      for (const auto& [x, y] : series.points) {
        if (y <= 0) continue;
        max_x_ = std::max(max_x_, x);
        low = std::min(low, y);
        high = std::max(high, y);
      }
    if (max_x_ <= 0) max_x_ = 1;
    if (high <= 0) low = high = 1;
    low_ = std::floor(std::log10(low));
    high_ = std::max(low_ + 1, std::ceil(std::log10(high)));
  }

  double x(double value) const { return origin_x_ + kLeft + value / max_x_ * kWidth; }
  double y(double value) const { return kTop + (high_ - std::log10(value)) / (high_ - low_) * kHeight; }

  std::string grid() const {
    std::string svg;
    for (double power = low_; power <= high_; ++power) {
      const double value = std::pow(10, power), at = y(value);
      svg += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#ddd\"/>\n", x(0), at,
                         x(max_x_), at);
      svg += text_at(x(0) - 6, at + 4, "end", fmt::format("{:g}", value));
    }
    const double step = nice_step(max_x_);
    for (double value = 0; value <= max_x_ * 1.0001; value += step)
      svg += text_at(x(value), kTop + kHeight + 16, "middle", fmt::format("{:g}", value));
    return svg +
           fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#333\"/>\n",
                       x(0), kTop, kWidth, kHeight);
  }

 private:
  double origin_x_, max_x_ = 0;
  double low_ = 0, high_ = 1;  // powers of ten
};

std::string line_of(const PlotSeries& series, const Axes& axes, const char* color) {
  std::string path, dots;
  for (const auto& [x, y] : series.points) {
    if (y <= 0) continue;
    path += fmt::format("{:.1f},{:.1f} ", axes.x(x), axes.y(y));
    dots += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", axes.x(x), axes.y(y), color);
  }
  return fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>\n", path, color) +
         dots;
}

std::string panel_svg(const PlotPanel& panel, double origin_x) {
  const Axes axes(panel, origin_x);
  const double middle = origin_x + kLeft + kWidth / 2;
  std::string svg = axes.grid();
  svg += text_at(middle, 20, "middle", panel.title, " font-weight=\"bold\"");
  svg += text_at(middle, kTop + kHeight + 36, "middle", panel.x_label);
  svg += fmt::format("<g transform=\"translate({:.1f},{:.1f}) rotate(-90)\">{}</g>\n", origin_x + 14,
                     kTop + kHeight / 2, text_at(0, 0, "middle", panel.y_label));
  for (size_t i = 0; i < panel.series.size(); ++i) {
    const char* color = kColors[i % kColors.size()];
    svg += line_of(panel.series[i], axes, color);
    svg += text_at(origin_x + kLeft + 10, kTop + 18 + 15 * static_cast<double>(i), "start", panel.series[i].name,
                   fmt::format(" fill=\"{}\"", color).c_str());
  }
  return svg;
}

}  // namespace

std::string to_svg(const std::vector<PlotPanel>& panels) {
  const double width = kPanelWidth * static_cast<double>(panels.size()), height = kTop + kHeight + kBottom;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
      "font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"{0:.0f}\" height=\"{1:.0f}\" fill=\"white\"/>\n",
      width, height);
  for (size_t i = 0; i < panels.size(); ++i) svg += panel_svg(panels[i], kPanelWidth * static_cast<double>(i));
  return svg + "</svg>\n";
}

}  // namespace sluice
