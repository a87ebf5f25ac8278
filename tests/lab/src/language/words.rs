//! A cursor over the words of one line. Everything it refuses says where and what was expected.
use super::ast::Name;
use super::diagnostic::{Diagnostic, Place};
use super::lexer::{Pair, Sign, Word, sign};

pub struct Words {
    line: usize,
    source: String,
    words: Vec<Word>,
    next: usize,
}

impl Words {
    pub fn new(line: usize, source: &str, words: Vec<Word>) -> Self {
        Words {
            line,
            source: source.to_owned(),
            words,
            next: 0,
        }
    }

    pub fn line(&self) -> usize {
        self.line
    }

    pub fn is_empty(&self) -> bool {
        self.next >= self.words.len()
    }

    pub fn peek(&self) -> Option<&Word> {
        self.words.get(self.next)
    }

    /// The word after the next one.
    pub fn peek_second(&self) -> Option<&Word> {
        self.words.get(self.next + 1)
    }

    /// Whether the word at this place from here, counted from 0, is a keyword.
    pub fn has_at(&self, place: usize, keyword: &str) -> bool {
        self.words
            .get(self.next + place)
            .is_some_and(|word| word.pair.is_none() && word.text == keyword)
    }

    pub fn take(&mut self) -> Option<Word> {
        let word = self.words.get(self.next).cloned();
        self.next += usize::from(word.is_some());
        word
    }

    pub fn skip(&mut self) {
        self.next += 1;
    }

    /// The next word if it can be a keyword.
    pub fn keyword(&self) -> Option<&str> {
        self.peek()
            .filter(|word| !word.quoted)
            .map(|word| word.text.as_str())
    }

    /// Takes the next word if it is this one.
    pub fn accept(&mut self, keyword: &str) -> bool {
        let found = self.keyword() == Some(keyword);
        self.next += usize::from(found);
        found
    }

    /// The place of the next word, or just behind the last one.
    pub fn place(&self) -> Place {
        match self.peek() {
            Some(word) => word.place,
            None => {
                let column = self
                    .words
                    .last()
                    .map_or(1, |word| word.place.column + word.place.width);
                let end = self.source.trim_end().chars().count() + 1;
                Place {
                    line: self.line,
                    column: if column < end { column + 1 } else { end },
                    width: 1,
                }
            }
        }
    }

    /// "X is not Y here", or "the line ends too early".
    pub fn refuse(&self, expected: impl Into<String>) -> Diagnostic {
        let message = match self.peek() {
            Some(word) => format!("`{}` does not fit here", word.text),
            None => "the line ends too early".to_owned(),
        };
        Diagnostic::new(self.place(), message).expecting(expected)
    }

    pub fn end(&self) -> Result<(), Diagnostic> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.refuse("the end of the line"))
        }
    }

    /// A name: letters, digits, `-`, `_` and `.`, beginning with a letter.
    pub fn name(&mut self, what: &str) -> Result<Name, Diagnostic> {
        match self.peek() {
            Some(word) if word.pair.is_none() && !word.quoted && is_name(&word.text) => {
                let name = Name {
                    text: word.text.clone(),
                    place: word.place,
                };
                self.next += 1;
                Ok(name)
            }
            _ => Err(self.refuse(what)),
        }
    }

    /// Any word, keyword or quoted text.
    pub fn text(&mut self, what: &str) -> Result<Word, Diagnostic> {
        match self.take() {
            Some(word) => Ok(word),
            None => Err(self.refuse(what)),
        }
    }

    /// The next word if it is a pair `key=value`.
    pub fn pair(&mut self) -> Option<Pair> {
        let pair = self.peek()?.pair.clone()?;
        self.next += 1;
        Some(pair)
    }

    pub fn peek_pair(&self) -> Option<&Pair> {
        self.peek()?.pair.as_ref()
    }

    /// The next word if it is a comparison that stands alone, as in `dl >= 20MiB`.
    pub fn lone_sign(&mut self) -> Option<Sign> {
        let word = self.peek().filter(|word| !word.quoted)?;
        let found = sign(&word.text).filter(|sign| sign.text().len() == word.text.len())?;
        self.next += 1;
        Some(found)
    }

    /// Everything that is left, as words without interpretation, up to (not including) the word `stop`.
    pub fn until(&mut self, stop: &str) -> Vec<String> {
        let mut taken = Vec::new();
        while let Some(word) = self.peek() {
            if !word.quoted && word.text == stop {
                break;
            }
            taken.push(word.text.clone());
            self.next += 1;
        }
        taken
    }

    pub fn rest_as_text(&mut self) -> String {
        let words: Vec<&str> = self.words[self.next.min(self.words.len())..]
            .iter()
            .map(|w| w.text.as_str())
            .collect();
        let text = words.join(" ");
        self.next = self.words.len();
        text
    }
}

pub fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}
