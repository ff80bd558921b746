//! What a check has found.

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// What a program does wrong, as a check has seen it.
///
/// It is an error, so a check returns it with `?` or `bail!`; any other error means that the check
/// itself could not be made.
#[derive(Clone, Debug)]
pub struct Flaw {
    /// What was lost, in one line with numbers: `61 of 28760 requests got no reply`.
    pub figure: String,
    /// What the check did to the program.
    pub did: String,
    /// What it saw then, with times.
    pub saw: String,
    /// What usually causes this.
    pub likely: String,
}

impl Flaw {
    /// Begins a flaw with what was lost.
    pub fn new(figure: impl Into<String>) -> Self {
        Self {
            figure: figure.into(),
            did: String::new(),
            saw: String::new(),
            likely: String::new(),
        }
    }

    /// Adds what the check did.
    #[must_use]
    pub fn did(mut self, did: impl Into<String>) -> Self {
        self.did = did.into();
        self
    }

    /// Adds what it saw.
    #[must_use]
    pub fn saw(mut self, saw: impl Into<String>) -> Self {
        self.saw = saw.into();
        self
    }

    /// Adds the likely cause.
    #[must_use]
    pub fn likely(mut self, likely: impl Into<String>) -> Self {
        self.likely = likely.into();
        self
    }

    /// All but the figure, in one paragraph.
    #[must_use]
    pub fn why(&self) -> String {
        let parts = [&self.did, &self.saw, &self.likely];
        let parts: Vec<&str> =
            parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        parts.join(" ")
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {}", self.figure, self.why())
    }
}

impl Error for Flaw {}

/// A duration as people read it: `3 ms`, `1.4 s`.
pub(crate) fn shown(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds < 1_000 {
        return format!("{milliseconds} ms");
    }
    format!("{:.1} s", duration.as_secs_f64())
}

/// A text as the beginning of a sentence.
pub(crate) fn capital(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().into_iter().flat_map(char::to_uppercase).chain(rest).collect()
}
