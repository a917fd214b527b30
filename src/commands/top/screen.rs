//! One screen of `laneway top`: draws a snapshot, without I/O.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Cell, Paragraph, Row, Sparkline, Table};

use crate::telemetry::journal::{Event, Happening};
use crate::telemetry::report::{age, bytes, called, condition, megabits, millis, situation};
use crate::telemetry::snapshot::{Rates, Snapshot, Usage};

/// Height of a graph in lines, with its border.
const GRAPH: u16 = 7;

/// Draws `snapshot`, with `notice` as a warning if there is one.
pub(super) fn draw(frame: &mut Frame<'_>, snapshot: &Snapshot, notice: Option<&str>) {
    let gateways = u16::try_from(snapshot.gateways.len()).unwrap_or(u16::MAX).clamp(1, 8) + 3;
    // Without room for everything, the graphs are left out first.
    let graph = if frame.area().height < 2 + gateways + GRAPH + 4 { 0 } else { GRAPH };
    let [head, table, rates, below] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(gateways),
        Constraint::Length(graph),
        Constraint::Min(4),
    ])
    .areas(frame.area());
    header(frame, head, snapshot, notice);
    gateway_table(frame, table, snapshot);
    graphs(frame, rates, snapshot);
    let sides = Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]);
    let [left, right] = sides.areas(below);
    destinations(frame, left, snapshot);
    events(frame, right, &snapshot.events);
}

fn panel(title: &str) -> Block<'_> {
    Block::bordered().border_type(BorderType::Rounded).border_style(Style::new().dim()).title(title.bold())
}

fn header(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, notice: Option<&str>) {
    let node = &snapshot.node;
    let who = Line::from(vec![
        Span::raw(" laneway ").bold().reversed(),
        Span::raw(format!(" {} ", node.name)).bold(),
        Span::raw(format!(
            "{} · group {} · up {} · proxy {}",
            node.id,
            node.group,
            age(node.uptime),
            node.proxy.join(", ")
        ))
        .dim(),
    ]);
    let how = match notice {
        Some(notice) => Line::from(format!(" {notice}")).red().bold(),
        None if node.goes_direct || !snapshot.links.is_empty() && snapshot.trouble.is_none() => {
            Line::from(format!(" {}", situation(snapshot))).green()
        }
        None => Line::from(format!(" {}", situation(snapshot))).yellow(),
    };
    let [first, second] = Layout::vertical([Constraint::Length(1), Constraint::Length(1)]).areas(area);
    let [left, right] = Layout::horizontal([Constraint::Min(0), Constraint::Length(9)]).areas(first);
    frame.render_widget(who, left);
    frame.render_widget(Line::from("q quits ").dim().right_aligned(), right);
    frame.render_widget(how, second);
}

/// The columns of the gateways and their widths, the most important first.
const COLUMNS: [(&str, u16); 9] = [
    ("", 1),
    ("GATEWAY", 8),
    ("ADDRESS", 20),
    ("STATE", 17),
    ("LINK", 19),
    ("RTT", 8),
    ("TUNNELS", 7),
    ("MACHINE LOAD", 12),
    ("CAPACITY", 12),
];

/// Maximum width of a name in characters; a longer one is cut.
const MAX_NAME: usize = 20;

/// The columns that fit into `room` with a space between them; the names' column is as wide as the names.
fn columns(room: u16, snapshot: &Snapshot) -> Vec<(&'static str, u16)> {
    let longest = snapshot.gateways.iter().map(|gateway| called(gateway).len().min(MAX_NAME)).max();
    let mut end = 0;
    let columns = COLUMNS.iter().map(|&(name, width)| match (name, longest) {
        ("GATEWAY", Some(longest)) => (name, width.max(u16::try_from(longest).unwrap_or(width))),
        _ => (name, width),
    });
    let fitting = columns.take_while(|(_, width)| {
        end += width + 1;
        end - 1 <= room
    });
    fitting.collect()
}

fn gateway_table(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot) {
    let dash = || "-".to_owned();
    let columns = columns(area.width.saturating_sub(2), snapshot);
    let rows = snapshot.gateways.iter().map(|gateway| {
        let link = gateway.id.as_ref().and_then(|id| snapshot.links.iter().find(|link| link.id == *id));
        let state = condition(gateway);
        let colour = match gateway.state.as_str() {
            _ if gateway.is_suspect || gateway.paused_for.is_some() => Color::Yellow,
            "active" | "linked" => Color::Green,
            "standby" => Color::Cyan,
            "withdrawn" | "silent" => Color::DarkGray,
            _ => Color::Yellow,
        };
        let cells = [
            Cell::new(if gateway.is_used { "▶" } else { " " }),
            Cell::new(called(gateway)),
            Cell::new(gateway.address.clone()),
            Cell::new(state).style(Style::new().fg(colour)),
            Cell::new(link.map_or_else(dash, |link| format!("{} {}", link.state, age(link.age)))),
            Cell::new(gateway.round_trip.map_or_else(dash, millis)),
            Cell::new(gateway.tunnels.map_or_else(dash, |tunnels| tunnels.to_string())),
            Cell::new(gateway.load.map_or_else(dash, |load| format!("{:.0}%", load * 100.0))),
            Cell::new(gateway.capacity.map_or_else(dash, megabits)),
        ];
        let row = Row::new(cells.into_iter().take(columns.len()));
        if gateway.is_used { row.style(Style::new().add_modifier(Modifier::BOLD)) } else { row }
    });
    let widths = columns.iter().map(|&(name, width)| match name {
        "ADDRESS" => Constraint::Min(width),
        _ => Constraint::Length(width),
    });
    let head = columns.iter().map(|(name, _)| *name);
    let table = Table::new(rows, widths).header(Row::new(head).dim()).block(panel(" gateways, best first "));
    frame.render_widget(table, area);
}

fn graphs(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot) {
    let halves = Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]);
    let [left, right] = halves.areas(area);
    let received = |rates: &Rates| rates.apps_received + rates.served_received;
    let sent = |rates: &Rates| rates.apps_sent + rates.served_sent;
    graph(frame, left, "from servers", snapshot.history.iter().map(received).collect(), Color::Green);
    graph(frame, right, "to servers", snapshot.history.iter().map(sent).collect(), Color::Blue);
}

fn graph(frame: &mut Frame<'_>, area: Rect, title: &str, mut values: Vec<u64>, colour: Color) {
    let room = usize::from(area.width.saturating_sub(2));
    values.drain(..values.len().saturating_sub(room));
    let (now, peak) =
        (values.last().copied().unwrap_or_default(), values.iter().copied().max().unwrap_or_default());
    let title = format!(" {title}: {}/s, peak {}/s ", bytes(now), bytes(peak));
    let line = Sparkline::default().data(&values).style(Style::new().fg(colour)).block(panel(&title));
    frame.render_widget(line, area);
}

fn destinations(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot) {
    let rows = |usage: &Usage, mark: &'static str| {
        let row = move |seen: &crate::telemetry::snapshot::DestinationSeen| {
            Row::new([
                mark.to_owned(),
                seen.target.clone(),
                seen.open.to_string(),
                bytes(seen.received),
                bytes(seen.sent),
            ])
        };
        usage.destinations.iter().map(row).collect::<Vec<_>>()
    };
    let all: Vec<_> = rows(&snapshot.apps, " ").into_iter().chain(rows(&snapshot.served, "↷")).collect();
    let widths = [
        Constraint::Length(1),
        Constraint::Min(16),
        Constraint::Length(5),
        Constraint::Length(9),
        Constraint::Length(9),
    ];
    let open = snapshot.apps.open + snapshot.served.open;
    let title = format!(" destinations: {open} open (↷ for clients) ");
    let head = Row::new(["", "DESTINATION", "OPEN", "FROM", "TO"]).dim();
    frame.render_widget(Table::new(all, widths).header(head).block(panel(&title)), area);
}

fn events(frame: &mut Frame<'_>, area: Rect, events: &[Event]) {
    let room = usize::from(area.height.saturating_sub(2));
    let lines = events.iter().rev().take(room).map(|event| {
        let colour = match event.what {
            Happening::Promoted
            | Happening::LinkUp
            | Happening::InUse
            | Happening::Resumed
            | Happening::Shared
            | Happening::Spread => Color::Green,
            Happening::LinkLost
            | Happening::Cut
            | Happening::Refused
            | Happening::Poisoned
            | Happening::Damaged => Color::Red,
            Happening::Suspect | Happening::Withdrawn | Happening::Demoted => Color::Yellow,
            Happening::Query | Happening::Offer => Color::Cyan,
        };
        Line::from(vec![
            Span::raw(format!("{} ", time_of_day(event.at))).dim(),
            Span::raw(format!("{:<10}", event.what.word())).fg(colour),
            Span::raw(format!("{} {}", event.who, event.text)),
        ])
    });
    let panel = panel(" events (UTC), latest first ");
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(panel), area);
}

/// A time in milliseconds since 1970 as `hh:mm:ss`, UTC.
fn time_of_day(millis: u64) -> String {
    let seconds = millis / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn drawn(width: u16, height: u16, notice: Option<&str>) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let snapshot = crate::telemetry::snapshot::example();
        terminal.draw(|frame| draw(frame, &snapshot, notice)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_screen_has_the_gateways_in_rank_order_the_rates_and_the_events() {
        let screen = drawn(120, 30, None);
        let place = |text: &str| screen.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{screen}"));
        assert!(place("▶ mill-7") < place("b2f04d17"), "{screen}");
        place("active 1 h 5 min");
        place("from servers: 12.3 MB/s");
        place("releases.corp.example:80");
        assert!(place("resumed") < place("link-lost"), "the latest first: {screen}");
        assert!(drawn(120, 30, Some("waiting for it")).contains("waiting for it"));
    }

    #[test]
    fn a_usual_terminal_has_whole_columns_and_a_small_one_has_no_graphs() {
        let screen = drawn(80, 24, None);
        for whole in ["▶ mill-7   10.77.0.21:7420", "active 1 h 5 min", "0.42 ms", "from servers"] {
            assert!(screen.contains(whole), "no {whole:?} in\n{screen}");
        }
        assert!(!screen.contains("MACHINE LOAD"), "{screen}");
        let small = drawn(50, 12, None);
        assert!(small.contains("▶ mill-7") && small.contains("b2f04d17"), "{small}");
        assert!(!small.contains("from servers"), "{small}");
    }

    #[test]
    fn any_size_of_terminal_is_drawn() {
        for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100)] {
            drawn(width, height, None);
        }
    }
}
