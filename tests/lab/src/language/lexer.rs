//! A line becomes words. Quotes may stand anywhere in a word (`offer="any"`), `#` at the start of a word begins
//! a comment, and a word with a comparison outside quotes is a pair.
use winnow::ascii::space1;
use winnow::combinator::{alt, cut_err, opt, repeat, terminated};
use winnow::error::{ContextError, ErrMode, StrContext, StrContextValue};
use winnow::prelude::*;
use winnow::stream::{LocatingSlice, Location};
use winnow::token::{any, take_till, take_while};

use super::diagnostic::{Diagnostic, Place};
use super::words::Words;

/// How the two halves of a pair compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    Equal,
    NotEqual,
    AtLeast,
    AtMost,
    More,
    Less,
    Matches,
}

impl Sign {
    pub fn text(self) -> &'static str {
        match self {
            Sign::Equal => "=",
            Sign::NotEqual => "!=",
            Sign::AtLeast => ">=",
            Sign::AtMost => "<=",
            Sign::More => ">",
            Sign::Less => "<",
            Sign::Matches => "~",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub place: Place,
    /// The whole word without its quotes.
    pub text: String,
    /// Something in it was quoted: never a keyword, never a sign.
    pub quoted: bool,
    pub pair: Option<Pair>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub key: String,
    pub key_place: Place,
    pub sign: Sign,
    pub value: String,
    pub value_place: Place,
}

type Input<'a> = LocatingSlice<&'a str>;

pub fn words(line: usize, text: &str) -> Result<Words, Diagnostic> {
    match line_of_words.parse(LocatingSlice::new(text)) {
        Ok(raw) => Ok(Words::new(
            line,
            text,
            raw.into_iter().map(|word| place_word(line, text, word)).collect(),
        )),
        Err(error) => {
            let place = Place {
                line,
                column: column_of(text, error.offset()),
                width: 1,
            };
            let expected: Vec<String> = error
                .inner()
                .context()
                .filter_map(|context| match context {
                    StrContext::Expected(value) => Some(value.to_string()),
                    _ => None,
                })
                .collect();
            let message = "the line cannot be cut into words";
            Err(Diagnostic::new(place, message).expecting(expected.join(" or ")))
        }
    }
}

/// One piece of a word: bare text or the inside of quotes.
struct Piece {
    text: String,
    quoted: bool,
    at: usize,
}

fn line_of_words(input: &mut Input<'_>) -> ModalResult<Vec<Vec<Piece>>> {
    opt(space1).parse_next(input)?;
    let words = repeat(0.., terminated(word, opt(space1))).parse_next(input)?;
    opt(comment).parse_next(input)?;
    Ok(words)
}

fn comment(input: &mut Input<'_>) -> ModalResult<()> {
    ('#', take_while(0.., |_| true)).void().parse_next(input)
}

fn word(input: &mut Input<'_>) -> ModalResult<Vec<Piece>> {
    if input.starts_with('#') {
        return Err(ErrMode::Backtrack(ContextError::new()));
    }
    repeat(1.., alt((quoted, bare))).parse_next(input)
}

fn bare(input: &mut Input<'_>) -> ModalResult<Piece> {
    let at = input.current_token_start();
    let text = take_till(1.., |c: char| c == '"' || c == '\'' || c.is_whitespace()).parse_next(input)?;
    Ok(Piece {
        text: text.to_owned(),
        quoted: false,
        at,
    })
}

fn quoted(input: &mut Input<'_>) -> ModalResult<Piece> {
    let at = input.current_token_start();
    let mark = any.verify(|c: &char| matches!(c, '"' | '\'')).parse_next(input)?;
    let closing = if mark == '"' {
        "a closing \""
    } else {
        "a closing '"
    };
    let text: String = repeat(0.., move |input: &mut Input<'_>| character(mark, input)).parse_next(input)?;
    cut_err(mark)
        .context(StrContext::Expected(StrContextValue::Description(closing)))
        .parse_next(input)?;
    Ok(Piece {
        text,
        quoted: true,
        at: at + 1,
    })
}

/// Double quotes know `\n`, `\t`, `\"` and `\\`; every other backslash stays, because regular expressions live
/// here. Single quotes know nothing.
fn character(mark: char, input: &mut Input<'_>) -> ModalResult<char> {
    if mark == '"' {
        let escape = alt((
            "\\n".value('\n'),
            "\\t".value('\t'),
            "\\\"".value('"'),
            "\\\\".value('\\'),
        ));
        if let Some(c) = opt(escape).parse_next(input)? {
            return Ok(c);
        }
    }
    any.verify(move |c: &char| *c != mark).parse_next(input)
}

fn place_word(line: usize, source: &str, pieces: Vec<Piece>) -> Word {
    let start = pieces[0].at - usize::from(pieces[0].quoted);
    let last = &pieces[pieces.len() - 1];
    let end = (last.at + last.text.len() + usize::from(last.quoted)).min(source.len());
    let place = place_of(line, source, start, end);
    let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
    let pair = pair_in(line, source, &pieces, end);
    Word {
        place,
        text,
        quoted: pieces.iter().any(|piece| piece.quoted),
        pair,
    }
}

/// The first comparison in a bare piece divides the word, if a key stands before it.
fn pair_in(line: usize, source: &str, pieces: &[Piece], end: usize) -> Option<Pair> {
    let first = &pieces[0];
    if first.quoted {
        return None;
    }
    let (at, sign) = find_sign(&first.text)?;
    if at == 0 {
        return None;
    }
    let after = at + sign.text().len();
    let value =
        first.text[after..].to_owned() + &pieces[1..].iter().map(|p| p.text.as_str()).collect::<String>();
    let start = (first.at + after).min(source.len());
    Some(Pair {
        key: first.text[..at].to_owned(),
        key_place: place_of(line, source, first.at, first.at + at),
        sign,
        value,
        value_place: place_of(line, source, start, end),
    })
}

fn find_sign(text: &str) -> Option<(usize, Sign)> {
    let at = text.find(['=', '!', '>', '<', '~'])?;
    sign(&text[at..]).map(|sign| (at, sign))
}

/// The sign at the start of `text`, longest first.
pub fn sign(text: &str) -> Option<Sign> {
    [
        Sign::NotEqual,
        Sign::AtLeast,
        Sign::AtMost,
        Sign::Equal,
        Sign::More,
        Sign::Less,
        Sign::Matches,
    ]
    .into_iter()
    .find(|sign| text.starts_with(sign.text()))
}

fn place_of(line: usize, source: &str, start: usize, end: usize) -> Place {
    let column = column_of(source, start);
    let width = column_of(source, end).saturating_sub(column).max(1);
    Place { line, column, width }
}

fn column_of(source: &str, offset: usize) -> usize {
    source.char_indices().take_while(|(at, _)| *at < offset).count() + 1
}
