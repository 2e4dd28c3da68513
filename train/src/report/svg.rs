//! Charts as SVG text.

use std::fmt::Write;

/// Colours that the colour-blind can tell apart (Okabe and Ito).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a00",
];

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
/// Room for labels: left, right, top, bottom.
const MARGINS: [f64; 4] = [64.0, 16.0, 24.0, 36.0];
/// Most points drawn of a line: more than there are pixels.
const MOST: usize = 1500;

/// A line of a chart.
pub(super) struct Line {
    /// What it shows.
    pub label: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
    /// Whether it is drawn in dashes.
    pub dashed: bool,
    /// Which colour it has; lines of one run share theirs.
    pub colour: usize,
}

/// What the axes of a chart are.
pub(super) struct Axes<'a> {
    pub x: &'a str,
    pub y: &'a str,
    /// Whether the vertical axis is logarithmic.
    pub log: bool,
    /// Names of the places 0, 1, 2, … on the horizontal axis, if it has names.
    pub names: &'a [String],
}

/// A chart of lines; nothing if there are no points.
pub(super) fn chart(lines: &[Line], axes: &Axes<'_>) -> String {
    let shown = |y: f64| y.is_finite() && (!axes.log || y > 0.0);
    let points = || lines.iter().flat_map(|l| &l.points).filter(|p| shown(p.1));
    let Some((x, y)) = extent(points()) else {
        return String::new();
    };
    let scale = Scale::new(x, y, axes.log);
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} by {}\">\n",
        escape(axes.y),
        escape(axes.x)
    );
    scale.frame(&mut out, axes);
    for line in lines {
        let places = line.points.iter().filter(|p| shown(p.1));
        draw(&mut out, line, &thinned(places.copied().collect()), &scale);
    }
    out.push_str("</svg>\n");
    out + &legend(lines)
}

/// The least and greatest x and y.
fn extent<'a>(points: impl Iterator<Item = &'a (f64, f64)>) -> Option<([f64; 2], [f64; 2])> {
    let mut found: Option<([f64; 2], [f64; 2])> = None;
    for (px, py) in points {
        let (x, y) = found.get_or_insert(([*px; 2], [*py; 2]));
        *x = [x[0].min(*px), x[1].max(*px)];
        *y = [y[0].min(*py), y[1].max(*py)];
    }
    found
}

/// At most [`MOST`] points, each the mean of its neighbours.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(MOST).max(1);
    let mean = |points: &[(f64, f64)]| {
        let sum = points
            .iter()
            .fold((0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1));
        let n = points.len() as f64;
        (sum.0 / n, sum.1 / n)
    };
    points.chunks(size).map(mean).collect()
}

fn draw(out: &mut String, line: &Line, points: &[(f64, f64)], scale: &Scale) {
    let places = points.iter().map(|(x, y)| {
        let (x, y) = (scale.x(*x), scale.y(*y));
        format!("{x:.1},{y:.1}")
    });
    let places = places.collect::<Vec<_>>().join(" ");
    let colour = COLOURS[line.colour % COLOURS.len()];
    let dashes = if line.dashed {
        " stroke-dasharray=\"5 4\""
    } else {
        ""
    };
    let _ = writeln!(
        out,
        "<polyline points=\"{places}\" fill=\"none\" stroke=\"{colour}\" \
         stroke-width=\"1.6\"{dashes}><title>{}</title></polyline>",
        escape(&line.label)
    );
}

fn legend(lines: &[Line]) -> String {
    let mut out = String::from("<p class=\"legend\">");
    for line in lines {
        let colour = COLOURS[line.colour % COLOURS.len()];
        let style = if line.dashed { "dashed" } else { "solid" };
        let label = escape(&line.label);
        let _ = write!(
            out,
            "<span><i style=\"border-top:2px {style} {colour}\"></i>{label}</span> "
        );
    }
    out + "</p>\n"
}

/// From values to places.
struct Scale {
    x: [f64; 2],
    y: [f64; 2],
    log: bool,
}

impl Scale {
    fn new(x: [f64; 2], y: [f64; 2], log: bool) -> Scale {
        let y = if log { y.map(f64::log10) } else { y };
        let room = |[low, high]: [f64; 2], share: f64| {
            let room = match high > low {
                true => (high - low) * share,
                false => low.abs().max(1.0) * 0.05,
            };
            [low - room, high + room]
        };
        Scale {
            x: if x[1] > x[0] { x } else { room(x, 0.0) },
            y: room(y, 0.05),
            log,
        }
    }

    fn x(&self, x: f64) -> f64 {
        let share = (x - self.x[0]) / (self.x[1] - self.x[0]);
        MARGINS[0] + share * (WIDTH - MARGINS[0] - MARGINS[1])
    }

    fn y(&self, y: f64) -> f64 {
        let y = if self.log { y.log10() } else { y };
        let share = (y - self.y[0]) / (self.y[1] - self.y[0]);
        HEIGHT - MARGINS[3] - share * (HEIGHT - MARGINS[2] - MARGINS[3])
    }

    /// Axes, ticks and what they are.
    fn frame(&self, out: &mut String, axes: &Axes<'_>) {
        let (left, right) = (MARGINS[0], WIDTH - MARGINS[1]);
        let (top, bottom) = (MARGINS[2], HEIGHT - MARGINS[3]);
        for tick in self.y_ticks() {
            let (y, text) = (self.y(tick), number(tick));
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                left - 6.0,
                y + 4.0
            );
        }
        for tick in ticks(self.x) {
            let text = match axes.names {
                [] => number(tick),
                names => match names.get(tick as usize) {
                    Some(name) if tick.fract() == 0.0 => escape(name),
                    _ => continue,
                },
            };
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
                self.x(tick),
                bottom + 15.0
            );
        }
        let _ = writeln!(
            out,
            "<path class=\"axis\" d=\"M{left} {top}V{bottom}H{right}\"/>\
             <text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 30.0,
            escape(axes.x),
            left - 6.0,
            top - 10.0,
            escape(axes.y)
        );
    }

    fn y_ticks(&self) -> Vec<f64> {
        if !self.log {
            return ticks(self.y);
        }
        let (low, high) = (10f64.powf(self.y[0]), 10f64.powf(self.y[1]));
        let powers = self.y[0].floor() as i32..=self.y[1].ceil() as i32;
        let all = powers.flat_map(|p| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(p)));
        let within: Vec<_> = all.filter(|t| (low..=high).contains(t)).collect();
        // Less than a decade or so: even steps say more.
        match within.len() {
            0..=2 => ticks([low, high])
                .into_iter()
                .filter(|t| *t > 0.0)
                .collect(),
            _ => within,
        }
    }
}

/// About six round numbers in a range.
fn ticks([low, high]: [f64; 2]) -> Vec<f64> {
    let rough = (high - low) / 6.0;
    if rough <= 0.0 || !rough.is_finite() {
        return vec![low];
    }
    let power = 10f64.powf(rough.log10().floor());
    let multiple = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .find(|m| m * power >= rough);
    let step = multiple.unwrap_or(10.0) * power;
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// A number as short as it can be read, to four digits.
fn number(x: f64) -> String {
    if x != 0.0 && x.abs() < 1e-2 {
        let text = format!("{x:.3e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let digits = digits.trim_end_matches('0').trim_end_matches('.');
        return format!("{digits}e{power}");
    }
    let text = format!("{x:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    match text {
        "-0" => "0".into(),
        text => text.into(),
    }
}

/// Text as HTML.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(
            ticks([0.0, 1000.0]),
            [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]
        );
        assert_eq!(ticks([-0.11, 0.02]).len(), 5);
        assert_eq!(ticks([3.0, 3.0]), [3.0]);
        assert_eq!(number(0.05), "0.05");
        assert_eq!(number(-0.0), "0");
        assert_eq!(number(0.00025), "2.5e-4");
        assert_eq!(number(-1e-7), "-1e-7");
    }

    #[test]
    fn a_chart_shows_every_point_that_can_be_shown() {
        let line = Line {
            label: "a<b".into(),
            points: vec![(1.0, 1.0), (2.0, f64::NAN), (3.0, 0.1), (4.0, 0.0)],
            dashed: false,
            colour: 0,
        };
        let axes = Axes {
            x: "step",
            y: "KL",
            log: true,
            names: &[],
        };
        let svg = chart(std::slice::from_ref(&line), &axes);
        let points = svg
            .split("points=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        assert_eq!(points.split(' ').count(), 2, "{points}");
        assert!(svg.contains("a&lt;b") && !svg.contains("NaN"));
        let empty = Line {
            points: Vec::new(),
            ..line
        };
        assert_eq!(chart(&[empty], &axes), "");
    }
}
