//! The graph as a picture that Git hosts and wikis draw.

use std::fmt::Write;

use super::{Coupling, Graph, Kind, table};

/// A Mermaid flowchart: parts with their radius, links as they are. Thick: takes the other with it;
/// dotted: only some flows are hit.
pub fn mermaid(graph: &Graph) -> String {
    let mut text = String::from("flowchart LR\n");
    for impact in table(graph) {
        let (open, close) = match impact.kind {
            Kind::Service => ("[", "]"),
            Kind::Infrastructure => ("[(", ")]"),
            Kind::External => ("([", "])"),
        };
        let held = if impact.remaining < impact.radius {
            format!(" → {}%", impact.remaining)
        } else {
            String::new()
        };
        let _ = writeln!(
            text,
            "  {}{open}\"{}<br/>{}%{held}\"{close}",
            id(&impact.part),
            impact.part,
            impact.radius
        );
    }
    for link in &graph.links {
        let arrow = match link.coupling {
            Coupling::Hard => "==>",
            Coupling::Partial(_) => "-->",
            Coupling::Loose => "-.->",
        };
        let label = link
            .contained
            .as_ref()
            .map(|held| format!("|{}|", held.by))
            .unwrap_or_default();
        let _ = writeln!(text, "  {} {arrow}{label} {}", id(&link.from), id(&link.to));
    }
    text
}

/// Mermaid takes `end` and dashes for words of its own.
fn id(name: &str) -> String {
    format!(
        "p_{}",
        name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
    )
}
