/* Two diagrams as one SVG image: how dense each layer is, and how much of its activity the hottest neurons have. */
#include <math.h>
#include <stdio.h>

#include "runtime/calibrate/calibrate.h"

#define WIDTH 900
#define HEIGHT 360
#define LEFT 60.0   /* of the first diagram */
#define RIGHT 520.0 /* of the second */
#define TOP 50.0
#define SIDE 250.0  /* height of both, width of the second */
#define BARS 380.0  /* width of the first */
#define POINTS 50

static void text(sg_str *out, double x, double y, const char *anchor, const char *words) {
    sg_str_printf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor, words);
}

/* Frame, lines and numbers from 0 to 100 % at the left. */
static void frame(sg_str *out, double x, double width, double most, const char *title) {
    text(out, x, TOP - 15, "start", title);
    for (int i = 0; i <= 4; i++) {
        char number[32];
        const double y = TOP + SIDE - SIDE * i / 4;
        snprintf(number, sizeof number, "%.3g %%", 100 * most * i / 4);
        sg_str_printf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ccc\"/>\n", x, y, x + width, y);
        text(out, x - 5, y + 4, "end", number);
    }
}

static void densities(const sg_cal *c, sg_str *out) {
    double most = 0;
    for (uint32_t i = 0; i < c->n_layer; i++) most = fmax(most, sg_cal_density(&c->layers[i], c->layers[i].active));
    most = most > 0.5 ? 1 : most > 0.25 ? 0.5 : most > 0.1 ? 0.25 : 0.1;
    frame(out, LEFT, BARS, most, "active neurons by layer");
    const double step = BARS / c->n_layer;
    for (uint32_t i = 0; i < c->n_layer; i++) {
        const double height = SIDE * sg_cal_density(&c->layers[i], c->layers[i].active) / most;
        sg_str_printf(out, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"#4477aa\"/>\n", LEFT + step * i + step * 0.1,
                      TOP + SIDE - height, step * 0.8, height);
    }
    text(out, LEFT, TOP + SIDE + 20, "start", "first layer");
    text(out, LEFT + BARS, TOP + SIDE + 20, "end", "last layer");
}

static void coverage(const sg_cal *c, sg_str *out) {
    frame(out, RIGHT, SIDE, 1, "share of all activity by the hottest neurons");
    for (uint32_t i = 0; i < c->n_layer; i++) {
        /* from blue, the first layer, to red */
        const int red = c->n_layer > 1 ? (int)(200.0 * i / (c->n_layer - 1)) : 0;
        sg_str_printf(out, "<polyline fill=\"none\" stroke=\"rgb(%d,60,%d)\" points=\"", red, 200 - red);
        for (int p = 0; p <= POINTS; p++)
            sg_str_printf(out, "%.1f,%.1f ", RIGHT + SIDE * p / POINTS, TOP + SIDE - SIDE * sg_cal_covered(&c->layers[i], p / (double)POINTS));
        sg_str_puts(out, "\"/>\n");
    }
    text(out, RIGHT, TOP + SIDE + 20, "start", "0 %");
    text(out, RIGHT + SIDE, TOP + SIDE + 20, "end", "100 % of the neurons");
    text(out, RIGHT, TOP + SIDE + 40, "start", "blue: first layer, red: last layer");
}

void sg_cal_plot(const sg_cal *c, sg_str *out) {
    sg_str_printf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n"
                       "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n", WIDTH, HEIGHT);
    densities(c, out);
    coverage(c, out);
    sg_str_puts(out, "</svg>\n");
}
