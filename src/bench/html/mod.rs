//! `report.html`: one self-contained page of plots. No script, no request, light and dark.

pub mod figures;
pub mod plot;
mod ticks;

use std::fmt::Write as _;

use self::plot::{Plot, escaped};

const STYLE: &str = include_str!("style.css");

/// The page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Its title.
    pub title: String,
    /// A line below it.
    pub subtitle: String,
    /// What every reader must know first, such as that figures are simulated.
    pub warning: Option<String>,
    /// Numbers that come first, each with its name and unit.
    pub headlines: Vec<Headline>,
    /// The parts.
    pub sections: Vec<Section>,
}

/// A number that comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headline {
    /// What it is.
    pub name: String,
    /// The number with its unit, or why there is none.
    pub value: String,
}

/// A part of the page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// A sentence below it; may be empty.
    pub intro: String,
    /// Its plots.
    pub figures: Vec<Figure>,
}

/// A plot, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Figure {
    /// A plot.
    Plot(Box<Plot>),
    /// What would be shown, and why it is not.
    Missing {
        /// The plot's title.
        title: String,
        /// Why there is nothing to draw, and what would change that.
        reason: String,
    },
}

impl Figure {
    /// A plot, or `reason` if it has nothing to draw.
    pub fn or(plot: Plot, reason: &str) -> Self {
        if plot.is_empty() {
            Self::Missing { title: plot.title, reason: reason.into() }
        } else {
            Self::Plot(Box::new(plot))
        }
    }
}

/// The page's text.
pub fn render(page: &Page) -> String {
    let mut html = String::new();
    let w = &mut html;
    let _ = write!(
        w,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\
         <link rel=\"icon\" href=\"data:,\"><title>{0}</title><style>{STYLE}</style></head><body><header><h1>{0}</h1><p>{1}</p></header>\n",
        escaped(&page.title),
        escaped(&page.subtitle)
    );
    if let Some(warning) = &page.warning {
        let _ = writeln!(w, "<p class=\"warning\" role=\"note\">{}</p>", escaped(warning));
    }
    if !page.headlines.is_empty() {
        w.push_str("<dl class=\"headlines\">");
        for one in &page.headlines {
            let _ = write!(w, "<div><dt>{}</dt><dd>{}</dd></div>", escaped(&one.name), escaped(&one.value));
        }
        w.push_str("</dl>\n");
    }
    w.push_str("<main>\n");
    for section in &page.sections {
        let _ = writeln!(w, "<section><h2>{}</h2>", escaped(&section.title));
        if !section.intro.is_empty() {
            let _ = writeln!(w, "<p>{}</p>", escaped(&section.intro));
        }
        w.push_str("<div class=\"figures\">\n");
        for figure in &section.figures {
            render_figure(w, figure);
        }
        w.push_str("</div></section>\n");
    }
    w.push_str("</main></body></html>\n");
    html
}

fn render_figure(w: &mut String, figure: &Figure) {
    match figure {
        Figure::Missing { title, reason } => {
            let _ = writeln!(
                w,
                "<figure class=\"missing\"><figcaption><h3>{}</h3></figcaption><p>{}</p></figure>",
                escaped(title),
                escaped(reason)
            );
        }
        Figure::Plot(plot) => {
            let _ = write!(w, "<figure id=\"{}\"><figcaption><h3>{}</h3>", plot.id, escaped(&plot.title));
            if plot.series.len() > 1 {
                w.push_str("<ul class=\"legend\">");
                for (at, series) in plot.series.iter().enumerate() {
                    let dashed = if series.shape == plot::Shape::Dashed { " class=\"dashed\"" } else { "" };
                    let _ =
                        write!(w, "<li{dashed} style=\"--c:var(--s{})\">{}</li>", at % 6 + 1, escaped(&series.name));
                }
                w.push_str("</ul>");
            }
            let _ = write!(w, "</figcaption><div class=\"scroll\">{}</div>", plot.svg());
            if !plot.note.is_empty() {
                let _ = write!(w, "<p class=\"note\">{}</p>", escaped(&plot.note));
            }
            w.push_str("</figure>\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::plot::{Axis, Point, Series, Shape};
    use super::*;

    #[test]
    fn a_page_stands_alone_and_escapes_what_it_shows() {
        let plot = Plot {
            id: "one".into(),
            title: "<script>alert(1)</script>".into(),
            note: "a & b".into(),
            x: Axis::new("Time", "h"),
            y: Axis::new("Pairs", "pairs/min"),
            series: vec![
                Series { name: "a".into(), shape: Shape::Line, points: vec![Point::at(0.0, 1.0), Point::at(1.0, 2.0)] },
                Series { name: "b".into(), shape: Shape::Dashed, points: vec![] },
            ],
            marks: vec![],
            levels: vec![],
        };
        let empty = Plot { series: vec![], ..plot.clone() };
        let page = Page {
            title: "Book".into(),
            subtitle: "of a run".into(),
            warning: Some("simulated".into()),
            headlines: vec![Headline { name: "Pairs".into(), value: "12".into() }],
            sections: vec![Section {
                title: "Speed".into(),
                intro: "how fast".into(),
                figures: vec![Figure::or(plot, "nothing"), Figure::or(empty, "no sample was taken")],
            }],
        };
        let html = render(&page);
        assert!(!html.contains("<script"), "{html}");
        for part in ["&lt;script&gt;", "no sample was taken", "prefers-color-scheme", "default-src 'none'", "simulated"]
        {
            assert!(html.contains(part), "{part} is missing");
        }
        // Nothing is loaded from anywhere.
        assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("url("), "{html}");
    }
}
