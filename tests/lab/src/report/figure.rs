//! Figure 23 of Shimizu 2002: acknowledgement numbers over time, as captured at the server.
use plotters::prelude::*;

use super::ReportError;
use super::ink::{Anchor, Canvas, Ink, arrow, bold, dashed, draw, step, text};
use super::trace::Trace;

/// Pixels of the whole picture, and what lies around the plot.
const SIZE: (u32, u32) = (1000, 540);
const LEFT: i32 = 64;
const RIGHT: i32 = 18;
const TOP: i32 = 74;
const BOTTOM: i32 = 50;
/// One point of a series in so many pixels: more cannot be seen.
const PIXELS: f64 = 2.0;

/// What a picture shows; two with the same one can be compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// Seconds since the story began.
    pub from: f64,
    pub to: f64,
    /// Bytes.
    pub top: f64,
}

/// A moment that this picture marks besides the trace's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub time: f64,
    pub label: String,
}

impl Frame {
    /// Large enough for all of these.
    pub fn around<'a>(traces: impl IntoIterator<Item = &'a Trace>) -> Frame {
        let (mut from, mut to, mut top) = (f64::MAX, f64::MIN, 1.0_f64);
        for trace in traces {
            from = from.min(trace.moments.opened.unwrap_or_default());
            to = to.max(trace.end().unwrap_or_default());
            top = top.max(f64::from(trace.bytes()));
        }
        if from >= to {
            (from, to) = (0.0, 1.0);
        }
        Frame {
            from: (from - 0.3).max(0.0).floor(),
            to: (to + 0.3).ceil(),
            top: top * 1.08,
        }
    }
}

/// A plot: where seconds and bytes lie on the canvas.
struct Plot<'a, 'b> {
    canvas: &'a Canvas<'b>,
    frame: Frame,
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws one connection. `names` are those of the places it was at, as `NAPT 1 (10.0.1.1)`.
///
/// # Errors
/// The drawing library refuses something.
pub fn figure(
    trace: &Trace,
    frame: Frame,
    names: [&str; 2],
    events: &[Event],
) -> Result<String, ReportError> {
    draw("the acknowledgement numbers", SIZE, |canvas| {
        let plot = Plot { canvas, frame };
        plot.axes()?;
        plot.moments(trace, events)?;
        plot.series(&trace.acknowledged, Ink::First)?;
        plot.series(&trace.acknowledged_after, Ink::Second)?;
        plot.in_vain(trace)?;
        plot.end(trace)?;
        plot.legend(trace, names)
    })
}

impl Plot<'_, '_> {
    fn x(&self, time: f64) -> i32 {
        let share = (time - self.frame.from) / (self.frame.to - self.frame.from);
        LEFT + (share * f64::from(self.right() - LEFT)).round() as i32
    }

    fn y(&self, bytes: f64) -> i32 {
        self.bottom() - (bytes / self.frame.top * f64::from(self.bottom() - TOP)).round() as i32
    }

    fn right(&self) -> i32 {
        SIZE.0 as i32 - RIGHT
    }

    fn bottom(&self) -> i32 {
        SIZE.1 as i32 - BOTTOM
    }

    fn axes(&self) -> Drawn {
        let (right, bottom) = (self.right(), self.bottom());
        let canvas = self.canvas;
        let between = step(self.frame.top / 1e6, 6.0);
        let mut megabytes = 0.0;
        while megabytes * 1e6 <= self.frame.top {
            let y = self.y(megabytes * 1e6);
            canvas.draw(&PathElement::new(vec![(LEFT, y), (right, y)], Ink::Grid.line(1)))?;
            let label = format!("{megabytes}");
            canvas.draw(&Text::new(label, (LEFT - 8, y), text(Ink::Text, 13, Anchor::End)))?;
            megabytes += between;
        }
        let between = step(self.frame.to - self.frame.from, 12.0).max(1.0);
        let mut second = (self.frame.from / between).ceil() * between;
        while second <= self.frame.to {
            let x = self.x(second);
            canvas.draw(&PathElement::new(vec![(x, TOP), (x, bottom)], Ink::Grid.line(1)))?;
            let label = format!("{second}");
            canvas.draw(&Text::new(
                label,
                (x, bottom + 14),
                text(Ink::Text, 13, Anchor::Middle),
            ))?;
            second += between;
        }
        let outline = vec![(LEFT, TOP), (LEFT, bottom), (right, bottom)];
        canvas.draw(&PathElement::new(outline, Ink::Text.line(1)))?;
        let below = ((LEFT + right) / 2, bottom + 36);
        let time = "time since the story began, in seconds";
        canvas.draw(&Text::new(time, below, text(Ink::Text, 14, Anchor::Middle)))?;
        let bytes = "acknowledgement number relative to B's ISN, in MB (million bytes)";
        canvas.draw(&Text::new(
            bytes,
            (4, TOP - 16),
            text(Ink::Text, 14, Anchor::Start),
        ))?;
        Ok(())
    }

    /// Acknowledged bytes as a line, one point in every few pixels.
    fn series(&self, points: &[(f64, u32)], ink: Ink) -> Drawn {
        let mut shown: Vec<(i32, i32)> = Vec::new();
        for (time, bytes) in points {
            let column = (f64::from(self.x(*time)) / PIXELS).floor() * PIXELS;
            let point = (column as i32, self.y(f64::from(*bytes)));
            match shown.last_mut() {
                // Numbers grow: the last in a column is the highest.
                Some(last) if last.0 == point.0 => last.1 = last.1.min(point.1),
                _ => shown.push(point),
            }
        }
        if shown.is_empty() {
            return Ok(());
        }
        self.canvas.draw(&PathElement::new(shown.clone(), ink.line(2)))?;
        for (x, y) in shown.into_iter().step_by(4) {
            self.canvas.draw(&Circle::new((x, y), 2, ink.area()))?;
        }
        Ok(())
    }

    /// What B sends where A is no more.
    fn in_vain(&self, trace: &Trace) -> Drawn {
        for vain in &trace.in_vain {
            let at = (self.x(vain.time), self.y(f64::from(vain.bytes)));
            if vain.again {
                self.canvas.draw(&Cross::new(at, 6, Ink::Lost.line(3)))?;
            } else {
                self.canvas.draw(&Circle::new(at, 4, Ink::Lost.line(2)))?;
            }
        }
        let (Some(lost), Some(first)) = (trace.moments.lost, trace.in_vain.iter().find(|vain| vain.again))
        else {
            return Ok(());
        };
        let label = match trace.in_vain.iter().filter(|vain| vain.again).count() {
            1 => "B repeats it once: nobody answers".to_owned(),
            times => format!("B repeats the same segment {times} times: nobody answers"),
        };
        let at = (self.x(lost) + 12, self.y(f64::from(first.bytes)) + 24);
        self.canvas
            .draw(&Text::new(label, at, text(Ink::Lost, 14, Anchor::Start)))?;
        Ok(())
    }

    fn moments(&self, trace: &Trace, events: &[Event]) -> Drawn {
        let moments = trace.moments;
        let (bottom, canvas) = (self.bottom(), self.canvas);
        let mark = |time: f64| {
            let x = self.x(time);
            dashed(canvas, (x, TOP), (x, bottom), Ink::Moment, 2)
        };
        let write = |label: String, x: i32, y: i32, anchor: Anchor| -> Drawn {
            canvas.draw(&Text::new(label, (x, y), text(Ink::Moment, 14, anchor)))?;
            Ok(())
        };
        if let Some(lost) = moments.lost {
            mark(lost)?;
            write(
                format!("address lost, {lost:.2} s"),
                self.x(lost) + 8,
                TOP + 12,
                Anchor::Start,
            )?;
        }
        let Some(usable) = moments.usable else {
            return Ok(());
        };
        let mut labels = vec![format!("address usable, {usable:.2} s")];
        mark(usable)?;
        for (name, time) in [("MSYN", moments.msyn), ("first new byte", moments.first_byte)] {
            if let Some(time) = time {
                mark(time)?;
                labels.push(format!("{:+.1} ms  {name}", (time - usable) * 1e3));
            }
        }
        // They lie within a pixel or two: their names stand in the empty space on the left.
        let first = bottom - 14 - 19 * (labels.len() as i32 - 1);
        for (number, label) in labels.into_iter().enumerate() {
            write(label, self.x(usable) - 8, first + 19 * number as i32, Anchor::End)?;
        }
        if let (Some(lost), Some(absence)) = (moments.lost, moments.absence()) {
            let (left, right, y) = (self.x(lost) + 3, self.x(usable) - 3, TOP + 44);
            let middle = (left + right) / 2;
            arrow(canvas, (middle, y), (left, y), Ink::Moment, 1)?;
            arrow(canvas, (middle, y), (right, y), Ink::Moment, 1)?;
            let label = format!("{absence:.1} s without a network");
            canvas.draw(&Text::new(
                label,
                (middle, y - 12),
                bold(Ink::Moment, 14, Anchor::Middle),
            ))?;
        }
        let level = self.y(f64::from(trace.bytes()));
        // The later, the higher: no line crosses the name of another.
        for (row, event) in events.iter().rev().enumerate() {
            let (x, y) = (self.x(event.time), TOP + 76 + 22 * row as i32);
            dashed(canvas, (x, y - 10), (x, level + 8), Ink::Lost, 2)?;
            let label = format!("{}, {:.1} s", event.label, event.time);
            canvas.draw(&Text::new(label, (x - 8, y), bold(Ink::Lost, 14, Anchor::End)))?;
        }
        if trace.after.is_none() {
            let label = "A is back: nothing comes";
            let at = (self.x(usable) + 10, level);
            canvas.draw(&Text::new(label, at, bold(Ink::Lost, 14, Anchor::Start)))?;
        }
        Ok(())
    }

    /// How far it came.
    fn end(&self, trace: &Trace) -> Drawn {
        let Some((time, bytes)) = trace.acknowledged_after.last() else {
            return Ok(());
        };
        let at = (self.x(*time) - 12, self.y(f64::from(*bytes)));
        let label = format!("{:.1} MB", f64::from(*bytes) / 1e6);
        self.canvas
            .draw(&Text::new(label, at, bold(Ink::Second, 14, Anchor::End)))?;
        Ok(())
    }

    fn legend(&self, trace: &Trace, [first, second]: [&str; 2]) -> Drawn {
        let (mut x, y) = (4, 16);
        let mut entries = vec![(Ink::First, '-', format!("ACKs from {first}"))];
        if trace.after.is_some() {
            entries.push((Ink::Second, '-', format!("ACKs from {second}")));
        }
        if !trace.in_vain.is_empty() {
            entries.push((Ink::Lost, 'x', "B repeats, to NAPT 1".to_owned()));
            entries.push((Ink::Lost, 'o', "B's last new data".to_owned()));
        }
        for (ink, sign, label) in entries {
            match sign {
                'x' => self.canvas.draw(&Cross::new((x + 12, y), 6, ink.line(3)))?,
                'o' => self.canvas.draw(&Circle::new((x + 12, y), 4, ink.line(2)))?,
                _ => self
                    .canvas
                    .draw(&PathElement::new(vec![(x, y), (x + 24, y)], ink.line(3)))?,
            }
            // Letters are about half as wide as high.
            let width = 32 + label.chars().count() as i32 * 15 / 2 + 16;
            self.canvas
                .draw(&Text::new(label, (x + 32, y), text(Ink::Text, 14, Anchor::Start)))?;
            x += width;
        }
        Ok(())
    }
}
