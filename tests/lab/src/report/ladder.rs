//! The handshake as a ladder that lies on its side: the server above, the mover below, time to the right.
use plotters::prelude::*;

use super::ReportError;
use super::handshake::{Purpose, Step};
use super::ink::{Anchor, Canvas, Ink, arrow, bold, dashed, draw, step, text};
use super::trace::{Moments, Place};

const WIDTH: u32 = 1000;
const LEFT: i32 = 176;
/// Names at the last moment need room on their right.
const RIGHT: i32 = 150;
const HEAD: i32 = 34;
/// Between the two lifelines.
const RUNG: i32 = 150;
/// One row of names.
const ROW: i32 = 18;
const AXIS: i32 = 56;

/// Draws the steps around `moments.usable`. `None`: there are none.
///
/// # Errors
/// The drawing library refuses something.
pub fn ladder(
    steps: &[Step],
    moments: Moments,
    place: Place,
    server: &str,
) -> Result<Option<String>, ReportError> {
    let (Some(usable), false) = (moments.usable, steps.is_empty()) else {
        return Ok(None);
    };
    let times = steps.iter().flat_map(|step| [step.at_mover, step.at_server]);
    let last = times.flatten().fold(usable, f64::max);
    let to = ((last - usable) * 1e3).max(0.01);
    let scale = Scale {
        usable,
        from: -0.04 * to,
        to,
    };
    let (above, below) = (rows(steps, false, &scale), rows(steps, true, &scale));
    let height = |rows: &[(usize, i32)]| rows.iter().map(|(_, row)| row + 1).max().unwrap_or_default() * ROW;
    let ladder = Ladder {
        scale,
        server_y: HEAD + height(&above) + 16,
        mover_y: HEAD + height(&above) + 16 + RUNG,
    };
    let size = (WIDTH, (ladder.mover_y + 16 + height(&below) + AXIS) as u32);
    draw("the handshake", size, |canvas| {
        ladder.frame(canvas, size.1 as i32, moments, place, server)?;
        for step in steps {
            ladder.step(canvas, step)?;
        }
        for (number, row) in above {
            ladder.name(canvas, number, &steps[number], row)?;
        }
        for (number, row) in below {
            ladder.name(canvas, number, &steps[number], row)?;
        }
        Ok(())
    })
    .map(Some)
}

/// Milliseconds after the address was usable, and where they lie.
struct Scale {
    usable: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn milliseconds(&self, time: f64) -> f64 {
        (time - self.usable) * 1e3
    }

    fn x(&self, milliseconds: f64) -> i32 {
        let share = (milliseconds - self.from) / (self.to - self.from);
        LEFT + (share * f64::from(WIDTH as i32 - LEFT - RIGHT)).round() as i32
    }
}

fn label(number: usize, step: &Step) -> String {
    format!("{} {}", number + 1, step.purpose.name())
}

/// The rows in which the names of one side's segments stand, counted from its lifeline. Every name hangs on a
/// line down to its moment; names further left stand further out, so that no line crosses a name.
fn rows(steps: &[Step], from_mover: bool, scale: &Scale) -> Vec<(usize, i32)> {
    let mut placed: Vec<(usize, i32, i32)> = Vec::new();
    for (number, step) in steps.iter().enumerate().rev() {
        let Some(sent) = step.sent().filter(|_| step.from_mover == from_mover) else {
            continue;
        };
        let x = scale.x(scale.milliseconds(sent));
        let end = x + 12 + label(number, step).chars().count() as i32 * 15 / 2;
        let in_the_way = placed.iter().filter(|(_, _, other)| *other < end);
        let row = in_the_way.map(|(_, row, _)| row + 1).max().unwrap_or_default();
        placed.push((number, row, x));
    }
    placed.into_iter().map(|(number, row, _)| (number, row)).collect()
}

fn ink(step: &Step) -> Ink {
    match step.purpose {
        Purpose::Msyn | Purpose::MsynAck | Purpose::MigrateAck | Purpose::Other => Ink::Moment,
        Purpose::HeadOfLine | Purpose::Progress | Purpose::Data => Ink::Second,
        Purpose::PureAck | Purpose::Probe => Ink::Muted,
    }
}

struct Ladder {
    scale: Scale,
    server_y: i32,
    mover_y: i32,
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

impl Ladder {
    fn frame(&self, canvas: &Canvas<'_>, height: i32, moments: Moments, place: Place, server: &str) -> Drawn {
        let right = WIDTH as i32 - RIGHT + 20;
        let axis = height - AXIS + 8;
        let between = step(self.scale.to - self.scale.from, 10.0);
        let mut tick = 0.0;
        while tick <= self.scale.to {
            let x = self.scale.x(tick);
            canvas.draw(&PathElement::new(
                vec![(x, axis), (x, axis + 5)],
                Ink::Text.line(1),
            ))?;
            let value = format!("{}", (tick * 1e6).round() / 1e6);
            canvas.draw(&Text::new(
                value,
                (x, axis + 16),
                text(Ink::Text, 13, Anchor::Middle),
            ))?;
            tick += between;
        }
        canvas.draw(&PathElement::new(
            vec![(LEFT, axis), (right, axis)],
            Ink::Text.line(1),
        ))?;
        let unit = "time since A's address was usable, in milliseconds";
        let below = ((LEFT + right) / 2, axis + 37);
        canvas.draw(&Text::new(unit, below, text(Ink::Text, 14, Anchor::Middle)))?;

        let middle = (self.server_y + self.mover_y) / 2;
        for (y, who, what) in [
            (self.server_y, "B", server.to_owned()),
            (middle, "NAPT 2", format!("outside {}", place.observed.ip())),
            (self.mover_y, "A", place.direct.to_string()),
        ] {
            if y == middle {
                dashed(canvas, (LEFT, y), (right, y), Ink::Grid, 1)?;
            } else {
                canvas.draw(&PathElement::new(vec![(LEFT, y), (right, y)], Ink::Text.line(2)))?;
            }
            canvas.draw(&Text::new(
                who,
                (LEFT - 12, y - 9),
                bold(Ink::Text, 15, Anchor::End),
            ))?;
            canvas.draw(&Text::new(
                what,
                (LEFT - 12, y + 9),
                text(Ink::Muted, 13, Anchor::End),
            ))?;
        }
        let x = self.scale.x(0.0);
        dashed(canvas, (x, HEAD - 6), (x, axis), Ink::Moment, 1)?;
        canvas.draw(&Text::new(
            "address usable",
            (x, 14),
            bold(Ink::Moment, 14, Anchor::Middle),
        ))?;
        if let Some(first) = moments.first_byte {
            let milliseconds = self.scale.milliseconds(first);
            let x = self.scale.x(milliseconds);
            dashed(canvas, (x, HEAD - 6), (x, axis), Ink::Moment, 1)?;
            let label = format!("first new byte, {milliseconds:.1} ms");
            canvas.draw(&Text::new(label, (x, 14), bold(Ink::Moment, 14, Anchor::Middle)))?;
        }
        Ok(())
    }

    fn x(&self, time: f64) -> i32 {
        self.scale.x(self.scale.milliseconds(time))
    }

    fn step(&self, canvas: &Canvas<'_>, step: &Step) -> Drawn {
        let (from, to) = if step.from_mover {
            (self.mover_y, self.server_y)
        } else {
            (self.server_y, self.mover_y)
        };
        match (step.sent(), step.arrived()) {
            (Some(sent), Some(arrived)) => {
                arrow(canvas, (self.x(sent), from), (self.x(arrived), to), ink(step), 2)
            }
            // Lost on its way: it ends in the middle.
            (Some(sent), None) => {
                let end = (self.x(sent), (from + to) / 2);
                canvas.draw(&PathElement::new(
                    vec![(self.x(sent), from), end],
                    Ink::Lost.line(2),
                ))?;
                canvas.draw(&Cross::new(end, 5, Ink::Lost.line(2)))?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn name(&self, canvas: &Canvas<'_>, number: usize, step: &Step, row: i32) -> Drawn {
        let Some(sent) = step.sent() else { return Ok(()) };
        let x = self.x(sent);
        let (lifeline, y) = if step.from_mover {
            (self.mover_y, self.mover_y + 16 + row * ROW + ROW / 2)
        } else {
            (self.server_y, self.server_y - 16 - row * ROW - ROW / 2)
        };
        canvas.draw(&PathElement::new(vec![(x, lifeline), (x, y)], ink(step).line(1)))?;
        let style = match step.purpose {
            Purpose::PureAck | Purpose::Probe | Purpose::Data => text(ink(step), 13, Anchor::Start),
            _ => bold(ink(step), 13, Anchor::Start),
        };
        canvas.draw(&Text::new(label(number, step), (x + 4, y), style))?;
        Ok(())
    }
}
