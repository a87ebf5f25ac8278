//! The network of the demonstration: figure 22 of Shimizu 2002.
use plotters::prelude::*;

use super::ReportError;
use super::ink::{Anchor, Canvas, Ink, arrow, bold, dashed, draw, text};
use super::trace::Trace;

const SIZE: (u32, u32) = (1000, 270);

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws who is where, with the addresses that were seen.
///
/// # Errors
/// The drawing library refuses something.
pub fn topology(trace: &Trace) -> Result<String, ReportError> {
    let before = (
        trace.before.direct.ip().to_string(),
        trace.before.observed.ip().to_string(),
    );
    let after = trace.after.map_or_else(
        || ("?".to_owned(), "?".to_owned()),
        |after| (after.direct.ip().to_string(), after.observed.ip().to_string()),
    );
    let absence = trace.moments.absence();
    draw("the network", SIZE, |canvas| {
        let (upper, lower, middle) = (64, 206, 135);
        line(canvas, (180, upper), (330, upper), Ink::First)?;
        line(canvas, (180, lower), (330, lower), Ink::Second)?;
        line(canvas, (470, upper), (600, middle), Ink::First)?;
        line(canvas, (470, lower), (600, middle), Ink::Second)?;
        line(canvas, (680, middle), (810, middle), Ink::Text)?;
        node(canvas, (40, 180), upper, Ink::First, "A at home", &before.0, true)?;
        node(
            canvas,
            (40, 180),
            lower,
            Ink::Second,
            "A in the café",
            &after.0,
            false,
        )?;
        node(
            canvas,
            (330, 470),
            upper,
            Ink::First,
            "NAPT 1",
            &format!("outside {}", before.1),
            false,
        )?;
        node(
            canvas,
            (330, 470),
            lower,
            Ink::Second,
            "NAPT 2",
            &format!("outside {}", after.1),
            false,
        )?;
        node(canvas, (600, 680), middle, Ink::Muted, "router", "", false)?;
        let server = trace.server.ip().to_string();
        node(canvas, (810, 960), middle, Ink::Text, "B", &server, false)?;
        arrow(canvas, (110, upper + 32), (110, lower - 32), Ink::Moment, 2)?;
        let label = absence.map_or_else(|| "moves".to_owned(), |absence| format!("{absence:.1} s later"));
        canvas.draw(&Text::new(
            label,
            (122, middle),
            bold(Ink::Moment, 14, Anchor::Start),
        ))?;
        let served = "web server, ssh server";
        canvas.draw(&Text::new(
            served,
            (885, middle + 44),
            text(Ink::Muted, 13, Anchor::Middle),
        ))?;
        let used = "curl, ssh";
        canvas.draw(&Text::new(
            used,
            (110, upper - 44),
            text(Ink::Muted, 13, Anchor::Middle),
        ))?;
        Ok(())
    })
}

fn line(canvas: &Canvas<'_>, from: (i32, i32), to: (i32, i32), ink: Ink) -> Drawn {
    canvas.draw(&PathElement::new(vec![from, to], ink.line(2)))?;
    Ok(())
}

/// A box around `y` between two columns; `left`: who was there has gone.
fn node(
    canvas: &Canvas<'_>,
    (from, to): (i32, i32),
    y: i32,
    ink: Ink,
    name: &str,
    address: &str,
    left: bool,
) -> Drawn {
    const HALF: i32 = 28;
    let corners = [(from, y - HALF), (to, y - HALF), (to, y + HALF), (from, y + HALF)];
    canvas.draw(&Rectangle::new([corners[0], corners[2]], Ink::Paper.area()))?;
    if left {
        for (number, corner) in corners.iter().enumerate() {
            dashed(canvas, *corner, corners[(number + 1) % 4], ink, 2)?;
        }
    } else {
        canvas.draw(&Rectangle::new([corners[0], corners[2]], ink.line(2)))?;
    }
    let middle = (from + to) / 2;
    let name_y = if address.is_empty() { y } else { y - 10 };
    canvas.draw(&Text::new(
        name.to_owned(),
        (middle, name_y),
        bold(Ink::Text, 15, Anchor::Middle),
    ))?;
    canvas.draw(&Text::new(
        address.to_owned(),
        (middle, y + 10),
        text(Ink::Text, 13, Anchor::Middle),
    ))?;
    Ok(())
}
