//! The picture of a key insight: what was measured, kept as JSON, and the SVG that is drawn from it.
//!
//! `cargo xtask bench --plots` writes both to the experiment's folder `plots`. A test draws each JSON
//! again and compares, so a picture shows nothing else than what was measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};
use kuva::backend::svg::SvgBackend;
use kuva::plot::scatter::MarkerShape;
use kuva::plot::{LegendEntry, LegendShape, LinePlot, ScatterPlot};
use kuva::render::figure::Figure;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots;
use kuva::render::theme::Theme;
use serde::{Deserialize, Serialize};

use crate::report::sorted_median;

/// Width of a picture, and height of each of its panels, in pixels.
const WIDTH: f64 = 700.0;
const HEIGHT: f64 = 300.0;
/// The libraries whose versions are kept with a measurement.
const LIBRARIES: [&str; 5] = ["async-nats", "axum", "hyper", "rumqttc", "tokio"];
/// The two sets of colours: the viewer's browser chooses. The order of the lines is that of the
/// palette of Okabe and Ito, which people with any colour vision can tell apart; each line has its
/// own marker, too.
const STYLE: &str = "<style>\
:root{--paper:#fff;--ink:#1f2328;--grid:#dde1e6;\
--line1:#0072b2;--line2:#d55e00;--line3:#008a63;--line4:#a7528a;--line5:#8a6d00}\
@media(prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#e6edf3;--grid:#30363d;\
--line1:#58b0ee;--line2:#f58a4b;--line3:#2fc79b;--line4:#dd94c3;--line5:#d9bd45}}\
</style>";
const COLOURS: [&str; 5] =
    ["var(--line1)", "var(--line2)", "var(--line3)", "var(--line4)", "var(--line5)"];
const MARKERS: [MarkerShape; 5] = [
    MarkerShape::Circle,
    MarkerShape::Square,
    MarkerShape::Triangle,
    MarkerShape::Diamond,
    MarkerShape::TriangleDown,
];

/// A measurement, and how it is shown.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plot {
    /// What the picture shows.
    pub title: String,
    /// One above the other.
    pub panels: Vec<Panel>,
}

/// Lines with axes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Panel {
    /// The axis from left to right.
    pub x: Axis,
    /// The axis from bottom to top.
    pub y: Axis,
    /// The programs or settings that are compared.
    pub lines: Vec<Line>,
}

/// What an axis shows.
#[derive(Debug, Serialize, Deserialize)]
pub struct Axis {
    /// What is counted, and its unit.
    pub label: String,
    /// Whether equal distances are equal ratios.
    pub logarithmic: bool,
}

/// One of the things that are compared.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    /// Its name in the legend, the same in all panels.
    pub name: String,
    /// From left to right.
    pub points: Vec<Point>,
}

/// A point, measured several times.
#[derive(Debug, Serialize, Deserialize)]
pub struct Point {
    /// The value on the axis from left to right, such as the number of requests in flight.
    pub x: f64,
    /// The median of the runs.
    pub y: f64,
    /// The lowest figure.
    pub lowest: f64,
    /// The highest figure.
    pub highest: f64,
}

/// A plot, and what its figures depend on.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    plot: Plot,
    /// How often each point was measured.
    runs: u32,
    /// The day, in UTC.
    date: String,
    machine: String,
    versions: BTreeMap<String, String>,
}

impl Axis {
    /// An axis on which equal distances are equal differences.
    pub fn linear(label: &str) -> Self {
        Self { label: label.to_owned(), logarithmic: false }
    }

    /// An axis on which equal distances are equal ratios.
    pub fn logarithmic(label: &str) -> Self {
        Self { label: label.to_owned(), logarithmic: true }
    }
}

impl Point {
    /// The median and the spread of the figures of several runs.
    pub fn new(x: f64, mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        let y = sorted_median(&figures);
        Self { x, y, lowest: figures[0], highest: figures[figures.len() - 1] }
    }
}

/// Writes `NAME.json` and `NAME.svg` to the folder `plots` of an experiment.
///
/// # Errors
///
/// If they cannot be written.
pub fn keep(plot: Plot, experiment: &str, name: &str, runs: u32) -> Result<()> {
    let record = Record { plot, runs, date: today(), machine: machine()?, versions: versions()? };
    let folder = root().join(experiment).join("plots");
    fs::create_dir_all(&folder)?;
    let json = folder.join(name).with_extension("json");
    fs::write(&json, serde_json::to_string_pretty(&record)? + "\n")
        .with_context(|| format!("cannot write {}", json.display()))?;
    redraw(&json)
}

/// Draws the picture beside a JSON file.
///
/// # Errors
///
/// If the file is not a record, or the picture cannot be written.
pub fn redraw(json: &Path) -> Result<()> {
    fs::write(json.with_extension("svg"), drawn(json)?)
        .with_context(|| format!("cannot draw {}", json.display()))
}

/// The JSON files of all plots in the workspace.
///
/// # Errors
///
/// If a folder cannot be read.
pub fn kept() -> Result<Vec<PathBuf>> {
    let mut kept = Vec::new();
    for folder in fs::read_dir(root())? {
        let Ok(plots) = fs::read_dir(folder?.path().join("plots")) else { continue };
        for file in plots {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                kept.push(path);
            }
        }
    }
    kept.sort();
    Ok(kept)
}

/// The folder of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn drawn(json: &Path) -> Result<String> {
    let text = fs::read_to_string(json)?;
    let record: Record = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a measurement", json.display()))?;
    record.svg()
}

impl Record {
    /// The picture. Its colours follow the viewer's light or dark scheme.
    fn svg(&self) -> Result<String> {
        let Plot { title, panels } = &self.plot;
        let (lines, layouts): (Vec<_>, Vec<_>) = panels.iter().map(Panel::render).unzip();
        let figure = Figure::new(panels.len(), 1)
            .with_cell_size(WIDTH - 20.0, HEIGHT)
            .with_plots(lines)
            .with_layouts(layouts)
            .with_title(title.as_str())
            .with_title_size(16)
            .with_shared_legend_bottom()
            .with_shared_legend_entries(legend(&panels[0]));
        let scene = figure.render();
        let (width, height) = (scene.width, scene.height);
        let svg = SvgBackend::new().with_pretty(true).render_scene(&scene);
        let (_, content) = svg.split_once('>').context("no element")?;
        Ok(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"{width}\" \
             height=\"{height}\" viewBox=\"0 0 {width} {height}\" fill=\"var(--ink)\" \
             font-family=\"system-ui, sans-serif\">\n{STYLE}<desc>{}, {} runs, {}</desc>{content}\n",
            self.date, self.runs, self.machine,
        ))
    }
}

impl Panel {
    fn render(&self) -> (Vec<plots::Plot>, Layout) {
        let mut rendered = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            let points = || line.points.iter().map(|point| (point.x, point.y));
            let spread =
                line.points.iter().map(|point| (point.y - point.lowest, point.highest - point.y));
            rendered.push(LinePlot::new().with_data(points()).with_color(COLOURS[at]).into());
            let markers = ScatterPlot::new()
                .with_data(points())
                .with_y_err_asymmetric(spread)
                .with_color(COLOURS[at])
                .with_marker(MARKERS[at])
                .with_size(4.5);
            rendered.push(markers.into());
        }
        let theme = Theme {
            background: "var(--paper)".into(),
            axis_color: "var(--ink)".into(),
            tick_color: "var(--ink)".into(),
            text_color: "var(--ink)".into(),
            grid_color: "var(--grid)".into(),
            legend_bg: "var(--paper)".into(),
            legend_border: "none".into(),
            ..Theme::light()
        };
        let format = TickFormat::Custom(std::sync::Arc::new(number));
        let all = self.lines.iter().flat_map(|line| &line.points).map(|point| point.x);
        let (first, last) = (all.clone().fold(f64::MAX, f64::min), all.fold(f64::MIN, f64::max));
        // Room for the markers of the outermost points.
        let (first, last) = if self.x.logarithmic {
            (first / 1.15, last * 1.15)
        } else {
            (first - 0.03 * (last - first), last + 0.03 * (last - first))
        };
        let mut layout = Layout::auto_from_plots(&rendered)
            .with_force_margins(80.0, 20.0)
            .with_x_axis_min(first)
            .with_x_axis_max(last)
            .with_x_label(self.x.label.as_str())
            .with_y_label(self.y.label.as_str())
            .with_tick_format(format)
            .with_theme(theme);
        if self.x.logarithmic {
            layout = layout.with_log_x();
        }
        if self.y.logarithmic {
            layout = layout.with_log_y();
        } else {
            let highest =
                self.lines.iter().flat_map(|line| &line.points).map(|point| point.highest);
            layout = layout.with_y_axis_min(-0.03 * highest.fold(0.0, f64::max));
        }
        (rendered, layout)
    }
}

fn legend(panel: &Panel) -> Vec<LegendEntry> {
    let entry = |(at, line): (usize, &Line)| LegendEntry {
        label: line.name.clone(),
        color: COLOURS[at].to_owned(),
        shape: LegendShape::Marker(MARKERS[at]),
        dasharray: None,
    };
    panel.lines.iter().enumerate().map(entry).collect()
}

/// `12,500`, `0.25`.
fn number(figure: f64) -> String {
    let digits = figure.to_string();
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    let mut text = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if fraction.is_empty() { text } else { format!("{text}.{fraction}") }
}

fn today() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()[..10].to_owned()
}

/// `Linux 6.8, 2 × Intel Xeon, 8 GB`.
fn machine() -> Result<String> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        Some(line?.split_once(':')?.1.trim().to_owned())
    };
    let (kernel, processors) = (read("/proc/sys/kernel/osrelease")?, read("/proc/cpuinfo")?);
    let model = value(&processors, "model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    let cores = std::thread::available_parallelism()?;
    let memory = value(&read("/proc/meminfo")?, "MemTotal").context("no MemTotal")?;
    let kilobytes: u64 = memory.trim_end_matches(" kB").parse()?;
    Ok(format!("Linux {}, {cores} × {model}, {} GB", kernel.trim(), kilobytes.div_ceil(1 << 20)))
}

fn versions() -> Result<BTreeMap<String, String>> {
    let lock = fs::read_to_string(root().join("Cargo.lock"))?;
    let version = |name: &str| {
        let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let mut versions = BTreeMap::new();
    for name in LIBRARIES {
        versions.insert(name.into(), version(name).with_context(|| format!("no {name}"))?);
    }
    versions.insert("nats-server".into(), testkit::VERSION.into());
    let rustc = Command::new("rustc").arg("--version").output().context("cannot run rustc")?;
    let rustc = String::from_utf8(rustc.stdout)?;
    versions.insert("rustc".into(), rustc.split(' ').nth(1).context("no version")?.into());
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[test]
    fn a_picture_shows_what_was_measured() -> Result<()> {
        let kept = kept()?;
        assert!(!kept.is_empty(), "no plots");
        for json in kept {
            let svg = json.with_extension("svg");
            ensure!(
                fs::read_to_string(&svg)? == drawn(&json)?,
                "{} is not drawn from its JSON: cargo xtask bench --redraw",
                svg.display(),
            );
        }
        Ok(())
    }

    #[test]
    fn readmes_show_each_picture_that_was_measured_and_no_other() -> Result<()> {
        let mut shown = Vec::new();
        for folder in fs::read_dir(root())? {
            let folder = folder?.path();
            let Ok(readme) = fs::read_to_string(folder.join("README.md")) else { continue };
            for picture in readme.split("](plots/").skip(1) {
                let (name, _) = picture.split_once(".svg)").context("no picture")?;
                shown.push(folder.join("plots").join(name).with_extension("json"));
            }
        }
        shown.sort();
        assert_eq!(shown, kept()?);
        Ok(())
    }

    #[test]
    fn figures_have_separators() {
        for (figure, text) in
            [(0.0, "0"), (0.25, "0.25"), (100.0, "100"), (1000.0, "1,000"), (1.25e6, "1,250,000")]
        {
            assert_eq!(number(figure), text);
        }
    }
}
