//! What is said about a line that cannot be read.
use std::fmt;

/// A place in a file; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
    /// How many characters are meant, at least 1.
    pub width: usize,
}

/// One mistake in a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub file: String,
    pub place: Place,
    /// The line as it stands in the file.
    pub source: String,
    /// What is wrong.
    pub message: String,
    /// What would be right here, if that can be said.
    pub expected: Option<String>,
}

impl Diagnostic {
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Diagnostic {
            file: String::new(),
            place,
            source: String::new(),
            message: message.into(),
            expected: None,
        }
    }

    pub fn expecting(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(super) fn in_file(mut self, file: &str, source: &str) -> Self {
        self.file = file.to_owned();
        self.source = source.to_owned();
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column, width } = self.place;
        writeln!(f, "{}:{line}:{column}: {}", self.file, self.message)?;
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs in front of the caret are repeated, so that it stands below its word at any tab width.
        let indent: String = self
            .source
            .chars()
            .take(column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        writeln!(f, "{number} | {}", self.source)?;
        write!(f, "{margin} | {indent}{}", "^".repeat(width.max(1)))?;
        if let Some(expected) = &self.expected {
            write!(f, "\n{margin} = expected {expected}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}
