//! Bytes of one connection over time, by each of its paths and together.
use plotters::prelude::*;

use super::ReportError;
use super::ink::{Anchor, Canvas, Ink, bold, dashed, draw, step, text};
use super::multipath::{Part, Stream};

/// Pixels of the whole picture, and what lies around the plot.
const SIZE: (u32, u32) = (1000, 420);
const LEFT: i32 = 64;
const RIGHT: i32 = 982;
const TOP: i32 = 70;
const BOTTOM: i32 = 370;
const INKS: [Ink; 3] = [Ink::First, Ink::Second, Ink::Moment];

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Where seconds and bytes lie.
struct Plot<'a, 'b> {
    canvas: &'a Canvas<'b>,
    to: f64,
    top: f64,
}

/// Draws the three first paths of a stream. `marks`: moments and what happened then.
///
/// # Errors
/// The drawing library refuses something.
pub fn paths(stream: &Stream, marks: &[(Option<f64>, String)]) -> Result<String, ReportError> {
    let together = together(&stream.subflows);
    let (to, top) = together
        .last()
        .map_or((1.0, 1.0), |(time, bytes)| (*time, *bytes as f64));
    draw("the bytes of each path", SIZE, |canvas| {
        let plot = Plot {
            canvas,
            to: (to + 0.3).max(1.0),
            top: top * 1.08,
        };
        plot.axes()?;
        for (row, (time, what)) in marks.iter().enumerate() {
            let Some(time) = time else { continue };
            let x = plot.x(*time);
            dashed(canvas, (x, TOP), (x, BOTTOM), Ink::Lost, 2)?;
            let label = format!("{what}, {time:.1} s");
            let at = (x + 8, TOP + 10 + 20 * row as i32);
            canvas.draw(&Text::new(label, at, bold(Ink::Lost, 14, Anchor::Start)))?;
        }
        plot.series(&together, Ink::Text)?;
        plot.name(0, "together", Ink::Text)?;
        for (number, (part, ink)) in stream.subflows.iter().zip(INKS).enumerate() {
            plot.series(&part.progress, ink)?;
            let name = format!("{} ({})", part.link, part.destination.ip());
            plot.name(number + 1, &name, ink)?;
        }
        Ok(())
    })
}

/// What all paths had carried at each moment.
fn together(parts: &[Part]) -> Vec<(f64, u64)> {
    let mut steps: Vec<(f64, u64)> = Vec::new();
    for part in parts {
        let mut before = 0;
        for (time, bytes) in &part.progress {
            steps.push((*time, bytes - before));
            before = *bytes;
        }
    }
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut sum = 0;
    for (_, bytes) in &mut steps {
        sum += *bytes;
        *bytes = sum;
    }
    steps
}

impl Plot<'_, '_> {
    fn x(&self, time: f64) -> i32 {
        LEFT + (time / self.to * f64::from(RIGHT - LEFT)).round() as i32
    }

    fn y(&self, bytes: f64) -> i32 {
        BOTTOM - (bytes / self.top * f64::from(BOTTOM - TOP)).round() as i32
    }

    fn axes(&self) -> Drawn {
        let canvas = self.canvas;
        let between = step(self.top / 1e6, 6.0);
        let mut megabytes = 0.0;
        while megabytes * 1e6 <= self.top {
            let y = self.y(megabytes * 1e6);
            canvas.draw(&PathElement::new(vec![(LEFT, y), (RIGHT, y)], Ink::Grid.line(1)))?;
            let label = format!("{megabytes}");
            canvas.draw(&Text::new(label, (LEFT - 8, y), text(Ink::Text, 13, Anchor::End)))?;
            megabytes += between;
        }
        let between = step(self.to, 12.0).max(0.5);
        let mut second = 0.0;
        while second <= self.to {
            let x = self.x(second);
            let label = format!("{second}");
            canvas.draw(&Text::new(
                label,
                (x, BOTTOM + 14),
                text(Ink::Text, 13, Anchor::Middle),
            ))?;
            second += between;
        }
        let outline = vec![(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)];
        canvas.draw(&PathElement::new(outline, Ink::Text.line(1)))?;
        let below = ((LEFT + RIGHT) / 2, BOTTOM + 36);
        let time = "time since the story began, in seconds";
        canvas.draw(&Text::new(time, below, text(Ink::Text, 14, Anchor::Middle)))?;
        let bytes = "bytes that have arrived at A, in MB (million bytes)";
        canvas.draw(&Text::new(
            bytes,
            (4, TOP - 16),
            text(Ink::Text, 14, Anchor::Start),
        ))?;
        Ok(())
    }

    /// One point in every few pixels: more cannot be seen.
    fn series(&self, points: &[(f64, u64)], ink: Ink) -> Drawn {
        let mut shown: Vec<(i32, i32)> = Vec::new();
        for (time, bytes) in points {
            let point = (self.x(*time) / 2 * 2, self.y(*bytes as f64));
            match shown.last_mut() {
                Some(last) if last.0 == point.0 => last.1 = last.1.min(point.1),
                _ => shown.push(point),
            }
        }
        if !shown.is_empty() {
            self.canvas.draw(&PathElement::new(shown, ink.line(2)))?;
        }
        Ok(())
    }

    /// An entry of the legend.
    fn name(&self, number: usize, name: &str, ink: Ink) -> Drawn {
        let (x, y) = (4 + 240 * number as i32, 16);
        self.canvas
            .draw(&PathElement::new(vec![(x, y), (x + 24, y)], ink.line(3)))?;
        let label = name.to_owned();
        self.canvas
            .draw(&Text::new(label, (x + 32, y), text(Ink::Text, 14, Anchor::Start)))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(link: &str, progress: &[(f64, u64)]) -> Part {
        Part {
            link: link.to_owned(),
            source: ([10, 0, 3, 2], 80).into(),
            destination: ([10, 1, 0, 2], 40_000).into(),
            bytes: progress.last().map_or(0, |(_, bytes)| *bytes),
            gaps: 0,
            unmapped: 0,
            progress: progress.to_vec(),
        }
    }

    #[test]
    fn together_is_the_sum_at_every_moment() {
        let parts = [
            part("wifi", &[(0.1, 10), (0.3, 30)]),
            part("lte", &[(0.2, 5), (0.4, 25)]),
        ];
        assert_eq!(together(&parts), [(0.1, 10), (0.2, 15), (0.3, 35), (0.4, 55)]);
    }

    #[test]
    fn a_picture_names_both_paths_and_the_cut() {
        let stream = Stream {
            subflows: vec![part("wifi", &[(0.1, 10)]), part("lte", &[(0.2, 5)])],
            bytes: 15,
            ..Stream::default()
        };
        let svg = paths(&stream, &[(Some(0.15), "wifi is cut".to_owned())]).expect("a picture");
        for word in ["wifi (10.1.0.2)", "lte", "together", "wifi is cut, 0.1 s"] {
            assert!(svg.contains(word), "{word}");
        }
    }
}
