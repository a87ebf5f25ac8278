//! Drawing with colours that the page decides about, so that a picture suits light and dark.
//!
//! The drawing library knows fixed colours only. Each [`Ink`] is drawn in a colour that nothing else has, which
//! is replaced afterwards by the style sheet's variable of that name.
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::ReportError;

/// A canvas in pixels.
pub type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What a line or text stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// Axes and text.
    Text,
    /// Text of second rank.
    Muted,
    /// The grid.
    Grid,
    /// What lies behind text that crosses a line.
    Paper,
    /// Traffic by way of NAPT 1.
    First,
    /// Traffic by way of NAPT 2.
    Second,
    /// What is lost.
    Lost,
    /// Moments.
    Moment,
}

impl Ink {
    pub const ALL: [Ink; 8] = [
        Ink::Text,
        Ink::Muted,
        Ink::Grid,
        Ink::Paper,
        Ink::First,
        Ink::Second,
        Ink::Lost,
        Ink::Moment,
    ];

    /// The variable of the style sheet.
    pub fn variable(self) -> &'static str {
        match self {
            Ink::Text => "--text",
            Ink::Muted => "--muted",
            Ink::Grid => "--grid",
            Ink::Paper => "--paper",
            Ink::First => "--first",
            Ink::Second => "--second",
            Ink::Lost => "--lost",
            Ink::Moment => "--moment",
        }
    }

    pub fn color(self) -> RGBColor {
        RGBColor(1, 2, 0xf0 + self as u8)
    }

    pub fn line(self, width: u32) -> ShapeStyle {
        self.color().stroke_width(width)
    }

    pub fn area(self) -> ShapeStyle {
        self.color().filled()
    }
}

/// Draws on a canvas of this size; yields one SVG element.
///
/// # Errors
/// The drawing library refuses something.
pub fn draw(
    what: &'static str,
    size: (u32, u32),
    picture: impl FnOnce(&Canvas<'_>) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<String, ReportError> {
    let mut svg = String::new();
    {
        let canvas = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let drawn = picture(&canvas).and_then(|()| Ok(canvas.present()?));
        drawn.map_err(|error| ReportError::Picture {
            what,
            reason: error.to_string(),
        })?;
    }
    for ink in Ink::ALL {
        let RGBColor(red, green, blue) = ink.color();
        let fixed = format!("#{red:02X}{green:02X}{blue:02X}");
        svg = svg.replace(&fixed, &format!("var({})", ink.variable()));
    }
    Ok(svg)
}

/// Which part of a text lies at the point it is drawn at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A style of text, vertically centred on its point. `size` is the font's, in pixels.
pub fn text(ink: Ink, size: u32, anchor: Anchor) -> TextStyle<'static> {
    let horizontal = match anchor {
        Anchor::Start => HPos::Left,
        Anchor::Middle => HPos::Center,
        Anchor::End => HPos::Right,
    };
    // The backend divides by 1.24.
    ("sans-serif", f64::from(size) * 1.24)
        .into_font()
        .color(&ink.color())
        .pos(Pos::new(horizontal, VPos::Center))
}

/// The same, bold.
pub fn bold(ink: Ink, size: u32, anchor: Anchor) -> TextStyle<'static> {
    let mut style = text(ink, size, anchor);
    style.font = style.font.style(FontStyle::Bold);
    style
}

/// A step between marks of an axis such that about `wanted` fit into `span`: 1, 2 or 5 times a power of ten.
pub fn step(span: f64, wanted: f64) -> f64 {
    let rough = (span / wanted).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors.into_iter().find(|factor| factor * power >= rough);
    factor.unwrap_or(10.0) * power
}

/// A dashed line from one point to another, straight up or across or slanted.
pub fn dashed(
    canvas: &Canvas<'_>,
    from: (i32, i32),
    to: (i32, i32),
    ink: Ink,
    width: u32,
) -> Result<(), Box<dyn std::error::Error>> {
    const DASH: f64 = 6.0;
    let (dx, dy) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
    let length = dx.hypot(dy).max(1.0);
    let at = |along: f64| {
        let share = along.min(length) / length;
        (
            from.0 + (dx * share).round() as i32,
            from.1 + (dy * share).round() as i32,
        )
    };
    let mut along = 0.0;
    while along < length {
        canvas.draw(&PathElement::new(
            vec![at(along), at(along + DASH * 0.6)],
            ink.line(width),
        ))?;
        along += DASH;
    }
    Ok(())
}

/// A line with a head at its end.
pub fn arrow(
    canvas: &Canvas<'_>,
    from: (i32, i32),
    to: (i32, i32),
    ink: Ink,
    width: u32,
) -> Result<(), Box<dyn std::error::Error>> {
    const HEAD: f64 = 8.0;
    let (dx, dy) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
    let length = dx.hypot(dy).max(1.0);
    let (ux, uy) = (dx / length, dy / length);
    let corner = |side: f64| {
        (
            (f64::from(to.0) - HEAD * ux + side * HEAD * 0.4 * uy).round() as i32,
            (f64::from(to.1) - HEAD * uy - side * HEAD * 0.4 * ux).round() as i32,
        )
    };
    canvas.draw(&PathElement::new(vec![from, to], ink.line(width)))?;
    canvas.draw(&Polygon::new(vec![to, corner(1.0), corner(-1.0)], ink.area()))?;
    Ok(())
}
