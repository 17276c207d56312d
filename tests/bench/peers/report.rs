//! What was measured, as a table and as a picture.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use crate::announcers::{Announcer, Pace};

/// One question and the values of each announcer, in their order.
pub struct Row {
    name: String,
    unit: &'static str,
    pub values: Vec<Vec<f64>>,
}

impl Row {
    pub fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            unit,
            values: Vec::new(),
        }
    }

    fn medians(&self) -> Vec<Option<f64>> {
        self.values.iter().map(|values| median(values)).collect()
    }

    /// Whether one of the others is better than the first, and by more than a hundredth.
    fn is_lost(&self) -> bool {
        let medians = self.medians();
        let best = medians
            .iter()
            .skip(1)
            .flatten()
            .copied()
            .fold(f64::INFINITY, f64::min);
        medians
            .first()
            .copied()
            .flatten()
            .is_some_and(|ours| ours > best * 1.01)
    }
}

/// All rows, and who is in them.
pub struct Report {
    announcers: Vec<Announcer>,
    lacking: Vec<String>,
    rows: Vec<Row>,
}

impl Report {
    pub fn new(announcers: Vec<Announcer>, lacking: Vec<String>) -> Self {
        Self {
            announcers,
            lacking,
            rows: Vec::new(),
        }
    }

    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Writes both files, and prints the table.
    pub fn write(&self) {
        let table = self.table();
        println!("{table}");
        fs::write(here("examples/comparison.md"), table).expect("a file");
        fs::write(here("examples/pictures/comparison.svg"), self.picture()).expect("a file");
    }

    fn table(&self) -> String {
        let mut text = format!(
            "# Comparison\n\n`tests/bench/run --peers` measured and wrote this: {}.\n\n",
            machine()
        );
        let versions: Vec<String> = self.announcers.iter().map(Announcer::version).collect();
        let _ = writeln!(text, "Compared: {}.", versions.join("; "));
        for why in &self.lacking {
            let _ = writeln!(text, "Not measured: {why}.");
        }
        text += "\nThe median, and in brackets the least and the most of the runs. The same service, host, router (BIRD) and network \
                 for each;\nless is better everywhere. What sidecast loses is marked with a star.\n\n| |";
        for one in &self.announcers {
            let _ = write!(text, " {} |", one.name());
        }
        text += "\n| --- |";
        text += &" ---: |".repeat(self.announcers.len());
        text += "\n";
        for (pace, name) in [
            (Pace::Default, "checks by default"),
            (Pace::Fastest, "checks at its fastest"),
        ] {
            let cells: Vec<&str> = self
                .announcers
                .iter()
                .map(|one| one.interval(pace))
                .collect();
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        for row in &self.rows {
            let star = if row.is_lost() { " *" } else { "" };
            let cells: Vec<String> = row
                .values
                .iter()
                .map(|values| cell(values, row.unit))
                .collect();
            let _ = writeln!(text, "| {}{star} | {} |", row.name, cells.join(" | "));
        }
        text + NOTES
    }

    /// Bars on a logarithmic scale, one group for each row that [`PICTURED`] names.
    fn picture(&self) -> String {
        let pictured = |row: &&Row| PICTURED.iter().any(|name| row.name.starts_with(name));
        let rows: Vec<&Row> = self.rows.iter().filter(pictured).collect();
        let group = 26 + BAR * self.announcers.len();
        let height = rows.len() * group + 30;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
        );
        for (index, row) in rows.iter().enumerate() {
            let top = index * group + 20;
            let _ = writeln!(
                svg,
                "<text x=\"10\" y=\"{top}\" font-weight=\"bold\">{}</text>",
                row.name
            );
            let medians = row.medians();
            let most = medians.iter().flatten().copied().fold(1.0, f64::max);
            for (bar, (one, value)) in self.announcers.iter().zip(&medians).enumerate() {
                let y = top + 6 + bar * BAR;
                let text = y + 11;
                let _ = writeln!(svg, "<text x=\"10\" y=\"{text}\">{}</text>", one.name());
                let Some(value) = value else {
                    let _ = writeln!(
                        svg,
                        "<text x=\"{LEFT}\" y=\"{text}\" fill=\"#666\">none</text>"
                    );
                    continue;
                };
                let share = (value.max(0.0) + 1.0).ln() / (most + 1.0).ln();
                let width = share * LONGEST + 1.0;
                let color = if bar == 0 { "#0b6e4f" } else { "#9aa5b1" };
                let end = LEFT + width + 5.0;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"13\" fill=\"{color}\"/>\
                     <text x=\"{end:.1}\" y=\"{text}\">{}</text>",
                    shown(*value, row.unit)
                );
            }
        }
        let y = height - 8;
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{y}\" font-size=\"10\" fill=\"#666\">Medians; logarithmic. {}</text>",
            machine()
        );
        svg + "</svg>\n"
    }
}

fn cell(values: &[f64], unit: &str) -> String {
    let Some(middle) = median(values) else {
        return "no such thing, or not taken".to_owned();
    };
    let middle = shown(middle, unit);
    if values.len() < 2 {
        return middle;
    }
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{middle} ({} to {})", shown(least, unit), shown(most, unit))
}

fn shown(value: f64, unit: &str) -> String {
    match unit {
        "ms" if value >= 1000.0 => format!("{:.1} s", value / 1000.0),
        "" => format!("{value:.0}"),
        _ if value >= 100.0 => format!("{value:.0} {unit}"),
        _ => format!("{value:.1} {unit}"),
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Where and when: a figure means nothing without.
fn machine() -> String {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        let printed = output.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&printed).trim().to_owned()
    };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load
        .split_whitespace()
        .nth(2)
        .unwrap_or_default()
        .to_owned();
    format!(
        "{}, {} processors, Linux {}, load {load} over the last quarter of an hour",
        said("date", &["-u", "+%Y-%m-%d"]),
        said("nproc", &[]),
        said("uname", &["-rm"]),
    )
}

fn here(file: &str) -> String {
    format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))
}

const NOTES: &str = "
Start is from the process to the route in the router's FIB. The service is killed with SIGKILL, each time at another moment of
the interval. ExaBGP runs its health check once for each app; it has no call that registers another. BIRD has one script, which
enables and disables the static routes of all apps, and for one more it gets a line and `birdc configure`. Memory is the
proportional set size of all processes of each; BIRD's script starts others for each check, whose time counts.
";
/// How the rows begin that the picture shows: README has no room for all.
const PICTURED: [&str; 8] = [
    "start to route",
    "service dead to route gone, by default",
    "service dead to route gone, at its fastest",
    "link up to route",
    "one more registered",
    "one app: memory",
    "1000 apps: CPU",
    "the router sends",
];
const WIDTH: u32 = 720;
/// Pixels.
const BAR: usize = 17;
const LEFT: f64 = 110.0;
const LONGEST: f64 = 470.0;
