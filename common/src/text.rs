//! Text from other programs.

/// Text from another program, made safe to print: one line of at most 120 characters, without
/// control characters, which could move the cursor or change colours.
#[must_use]
pub fn printable(text: &str) -> String {
    let visible = |letter: char| if letter.is_control() { '?' } else { letter };
    text.chars().take(120).map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_cannot_write_to_the_terminal() {
        assert_eq!(printable("unknown `\u{1b}[2J\nfine`"), "unknown `?[2J?fine`");
        assert_eq!(printable(&"x".repeat(1_000_000)).len(), 120);
    }
}
