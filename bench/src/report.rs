//! Tables of medians and ratios.

use std::fmt;

use serde_json::{Value, json};

/// What was measured. The first row is what the others are compared with, in the first column.
#[derive(Debug)]
pub struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    /// The median of each column.
    medians: Vec<f64>,
    /// The lowest and the highest figure of the first column.
    spread: [f64; 2],
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row: `samples` holds a figure for each column for each run.
    pub fn row(&mut self, name: &str, samples: &[Vec<f64>]) {
        let column = |at: usize| {
            let mut figures: Vec<f64> = samples.iter().map(|run| run[at]).collect();
            figures.sort_by(f64::total_cmp);
            figures
        };
        let first = column(0);
        self.rows.push(Row {
            name: name.to_owned(),
            medians: (0..self.columns.len()).map(|at| sorted_median(&column(at))).collect(),
            spread: [first[0], first[first.len() - 1]],
        });
    }

    fn ratio(&self, row: &Row) -> f64 {
        row.medians[0] / self.rows[0].medians[0]
    }

    /// The table for programs to read.
    #[must_use]
    pub fn to_json(&self, experiment: &str) -> Value {
        let rows = self.rows.iter().map(|row| {
            let medians: serde_json::Map<String, Value> = self
                .columns
                .iter()
                .cloned()
                .zip(row.medians.iter().map(|&median| json!(median)))
                .collect();
            json!({
                "name": row.name,
                "medians": medians,
                "lowest": row.spread[0],
                "highest": row.spread[1],
                "ratio": self.ratio(row),
            })
        });
        json!({
            "experiment": experiment,
            "title": self.title,
            "columns": self.columns,
            "rows": rows.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![vec![String::new()]];
        lines[0].extend(self.columns.iter().cloned());
        lines[0].extend(["lowest–highest".into(), "ratio".into()]);
        for row in &self.rows {
            let mut line = vec![row.name.clone()];
            line.extend(row.medians.iter().map(|&median| number(median)));
            let [lowest, highest] = row.spread;
            line.push(format!("{}–{}", number(lowest), number(highest)));
            line.push(format!("{:.2}", self.ratio(row)));
            lines.push(line);
        }
        let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max();
        let widths: Vec<usize> = (0..lines[0].len()).filter_map(width).collect();
        writeln!(f, "{}", self.title)?;
        for line in &lines {
            write!(f, "  {:<1$}", line[0], widths[0])?;
            for (cell, width) in line.iter().zip(&widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The middle of sorted figures.
pub fn sorted_median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

/// Plain digits, as many as say something.
fn number(figure: f64) -> String {
    if figure < 100.0 { format!("{figure:.1}") } else { format!("{figure:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_medians_and_ratios() {
        let mut table = Table::new("Sums", &["sums/s", "p50 µs"]);
        table.row("by hand", &[vec![2.0, 30.0], vec![4.0, 10.0]]);
        table.row("NATS", &[vec![900.0, 9.0], vec![600.0, 7.0], vec![100.0, 8.0]]);
        assert_eq!(
            table.to_string(),
            "Sums\n           sums/s  p50 µs  lowest–highest   ratio\n  by hand     3.0    20.0         2.0–4.0    1.00\n  NATS        600     8.0         100–900  200.00\n",
        );
        assert_eq!(table.to_json("rpc")["rows"][1]["ratio"], 200.0);
    }
}
