// Charts of measured curves as SVG: panels side by side, lines with markers over a linear x and a logarithmic y. Text
// out, nothing else.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace sluice {

struct PlotSeries {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x >= 0, y > 0
};

struct PlotPanel {
  std::string title, x_label, y_label;
  std::vector<PlotSeries> series;
};

// A whole SVG document. Points with y <= 0 are left out.
std::string to_svg(const std::vector<PlotPanel>& panels);

}  // namespace sluice
