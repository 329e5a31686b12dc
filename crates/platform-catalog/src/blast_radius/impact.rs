//! What is lost when a part fails.

use std::collections::BTreeMap;

use super::{Coupling, Graph, Kind};

/// What one flow loses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowImpact {
    /// The flow.
    pub flow: String,
    /// What of it is lost; percent.
    pub loss: u32,
    /// What of it is lost in spite of everything that holds the failure up; percent.
    pub remaining: u32,
}

/// What is lost when a part fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impact {
    /// The part.
    pub part: String,
    /// What it is.
    pub kind: Kind,
    /// The share of all that customers do that is lost if nothing holds the failure up; percent.
    pub radius: u32,
    /// The same, with everything that does.
    pub remaining: u32,
    /// Services that fail with it, itself left out.
    pub fails: Vec<String>,
    /// Services that do less or worse.
    pub degrades: Vec<String>,
    /// Flows that lose something, those that lose most first.
    pub flows: Vec<FlowImpact>,
    /// What holds it up.
    pub contained_by: Vec<String>,
}

/// A loss in millionths, so that shares of shares do not get lost.
type Loss = u32;
const ALL: Loss = 1_000_000;

fn share(loss: Loss, of: u32, whole: u32) -> Loss {
    (u64::from(loss) * u64::from(of))
        .div_ceil(u64::from(whole))
        .try_into()
        .unwrap_or(ALL)
}

/// What each part loses: the failed one all, the others what their links pass on. Repeated until
/// nothing changes: circles are no trouble, since losses only grow.
fn losses(graph: &Graph, failed: &str, contained: bool) -> BTreeMap<String, Loss> {
    let own = graph
        .part(failed)
        .and_then(|part| part.contained.as_ref())
        .filter(|_| contained)
        .map_or(ALL, |held| share(ALL, held.remains, 1000));
    let mut losses = BTreeMap::from([(failed.to_owned(), own)]);
    loop {
        let mut changed = false;
        for link in &graph.links {
            let Some(&lost) = losses.get(&link.to) else {
                continue;
            };
            let passed = match link.coupling {
                Coupling::Hard => lost,
                Coupling::Partial(percent) => share(lost, percent, 100),
                Coupling::Loose => 0,
            };
            let passed = match &link.contained {
                Some(held) if contained => share(passed, held.remains, 1000),
                _ => passed,
            };
            let entry = losses.entry(link.from.clone()).or_default();
            if passed > *entry {
                *entry = passed;
                changed = true;
            }
        }
        if !changed {
            losses.retain(|_, loss| *loss > 0);
            return losses;
        }
    }
}

fn flow_loss(
    graph: &Graph,
    losses: &BTreeMap<String, Loss>,
    needs: &[super::Need],
    contained: bool,
) -> Loss {
    let one = |need: &super::Need| {
        let lost = share(losses.get(&need.part).copied().unwrap_or(0), need.loss, 100);
        let link = need
            .via
            .as_ref()
            .and_then(|via| graph.link(via, &need.part));
        match link.and_then(|link| link.contained.as_ref()) {
            Some(held) if contained => share(lost, held.remains, 1000),
            _ => lost,
        }
    };
    needs.iter().map(one).max().unwrap_or(0)
}

fn percent(loss: Loss) -> u32 {
    (loss + ALL / 200) / (ALL / 100)
}

/// What is lost when this part fails.
///
/// # Panics
/// If the graph has no such part.
pub fn impact(graph: &Graph, failed: &str) -> Impact {
    let part = graph.part(failed);
    assert!(part.is_some(), "the graph has no part `{failed}`");
    let kind = part.map_or(Kind::Service, |part| part.kind);
    let (raw, held) = (losses(graph, failed, false), losses(graph, failed, true));
    let of_flow = |flow: &super::Flow| {
        (
            flow_loss(graph, &raw, &flow.needs, false),
            flow_loss(graph, &held, &flow.needs, true).min(flow_loss(
                graph,
                &raw,
                &flow.needs,
                false,
            )),
        )
    };
    let all: Vec<(&super::Flow, (Loss, Loss))> = graph
        .flows
        .iter()
        .map(|flow| (flow, of_flow(flow)))
        .collect();
    let sum = |pick: fn(&(Loss, Loss)) -> Loss| {
        percent(
            all.iter()
                .map(|(flow, lost)| share(pick(lost), flow.weight, 100))
                .sum::<Loss>(),
        )
    };
    let mut flows: Vec<FlowImpact> = all
        .iter()
        .filter(|(_, (lost, _))| *lost > 0)
        .map(|(flow, (lost, remaining))| FlowImpact {
            flow: flow.name.clone(),
            loss: percent(*lost),
            remaining: percent(*remaining),
        })
        .collect();
    flows.sort_by(|a, b| b.loss.cmp(&a.loss).then_with(|| a.flow.cmp(&b.flow)));
    let services = |wanted: fn(Loss) -> bool| {
        let is_service = |name: &str| {
            graph
                .part(name)
                .is_some_and(|part| part.kind == Kind::Service)
        };
        raw.iter()
            .filter(|(name, loss)| *name != failed && is_service(name) && wanted(**loss))
            .map(|(name, _)| name.clone())
            .collect()
    };
    Impact {
        part: failed.to_owned(),
        kind,
        radius: sum(|lost| lost.0),
        remaining: sum(|lost| lost.1),
        fails: services(|loss| loss >= ALL),
        degrades: services(|loss| loss < ALL),
        contained_by: contained_by(graph, failed, &raw),
        flows,
    }
}

/// What stands in the way between the failed part and the flows.
fn contained_by(graph: &Graph, failed: &str, raw: &BTreeMap<String, Loss>) -> Vec<String> {
    let mut all: Vec<String> = graph
        .part(failed)
        .and_then(|part| part.contained.as_ref())
        .map(|held| held.by.clone())
        .into_iter()
        .collect();
    let needed = |from: &str, to: &str| {
        graph
            .flows
            .iter()
            .flat_map(|flow| &flow.needs)
            .any(|need| need.part == to && need.via.as_deref() == Some(from))
    };
    for link in &graph.links {
        let passes = link.coupling != Coupling::Loose || needed(&link.from, &link.to);
        if let Some(held) = link
            .contained
            .as_ref()
            .filter(|_| passes && raw.contains_key(&link.to))
        {
            let held = format!("{} in {}", held.by, link.from);
            if !all.contains(&held) {
                all.push(held);
            }
        }
    }
    all
}

/// Every part's impact, the widest first.
pub fn table(graph: &Graph) -> Vec<Impact> {
    let mut all: Vec<Impact> = graph
        .parts
        .iter()
        .map(|part| impact(graph, &part.name))
        .collect();
    all.sort_by(|a, b| {
        b.radius
            .cmp(&a.radius)
            .then_with(|| a.kind.cmp(&b.kind))
            .then_with(|| a.part.cmp(&b.part))
    });
    all
}

#[cfg(test)]
mod tests {
    use super::super::{Containment, Flow, Link, Need, Part};
    use super::*;

    fn part(name: &str, kind: Kind) -> Part {
        Part {
            name: name.to_owned(),
            kind,
            contained: None,
        }
    }

    fn link(from: &str, to: &str, coupling: Coupling) -> Link {
        Link {
            from: from.to_owned(),
            to: to.to_owned(),
            coupling,
            contained: None,
        }
    }

    fn need(part: &str, via: Option<&str>, loss: u32) -> Need {
        Need {
            part: part.to_owned(),
            via: via.map(str::to_owned),
            loss,
        }
    }

    /// Orders need the database and, through the shop, payments; browsing needs the shop alone.
    fn shop() -> Graph {
        Graph {
            parts: vec![
                part("shop", Kind::Service),
                part("payments", Kind::Service),
                part("database", Kind::Infrastructure),
                part("bank", Kind::External),
            ],
            links: vec![
                link("shop", "database", Coupling::Partial(50)),
                link("payments", "database", Coupling::Hard),
                link("payments", "bank", Coupling::Hard),
                link("shop", "payments", Coupling::Loose),
            ],
            flows: vec![
                Flow {
                    name: "order".to_owned(),
                    weight: 40,
                    needs: vec![need("shop", None, 100), need("payments", Some("shop"), 100)],
                },
                Flow {
                    name: "browse".to_owned(),
                    weight: 60,
                    needs: vec![need("shop", None, 100)],
                },
            ],
        }
    }

    #[test]
    fn a_failure_goes_along_hard_links_and_hits_the_flows_that_need_what_failed() {
        let impact = impact(&shop(), "bank");
        assert_eq!((impact.radius, impact.remaining), (40, 40));
        assert_eq!(impact.fails, ["payments"]);
        assert_eq!(
            impact.flows,
            [FlowImpact {
                flow: "order".to_owned(),
                loss: 100,
                remaining: 100
            }]
        );
    }

    #[test]
    fn a_part_that_is_only_slower_loses_its_share() {
        let impact = impact(&shop(), "database");
        assert_eq!(
            impact.radius,
            40 + 30,
            "orders cannot be paid, and half of the browsing is lost"
        );
        assert_eq!(
            (impact.fails, impact.degrades),
            (vec!["payments".to_owned()], vec!["shop".to_owned()])
        );
    }

    #[test]
    fn what_holds_a_failure_up_counts_at_the_part_and_at_the_link_that_the_flow_goes_through() {
        let mut graph = shop();
        graph.parts[2].contained = Some(Containment {
            by: "failover".to_owned(),
            remains: 50,
        });
        graph.links[3].contained = Some(Containment {
            by: "queue".to_owned(),
            remains: 200,
        });
        let database = impact(&graph, "database");
        assert_eq!(
            (database.radius, database.remaining),
            (70, 3),
            "half of 5 % of all, orders by the queue not more than that"
        );
        let bank = impact(&graph, "bank");
        assert_eq!((bank.radius, bank.remaining), (40, 8));
        assert_eq!(bank.contained_by, ["queue in shop"]);
    }

    #[test]
    fn what_holds_several_links_up_is_named_once() {
        let mut graph = shop();
        graph.parts.push(part("parcels", Kind::Service));
        graph.links.push(link("parcels", "bank", Coupling::Hard));
        graph.links.push(Link {
            contained: Some(Containment {
                by: "a fixed answer".to_owned(),
                remains: 0,
            }),
            ..link("shop", "bank", Coupling::Hard)
        });
        graph.links.push(link("shop", "parcels", Coupling::Hard));
        for link in [3, 6] {
            graph.links[link].contained = Some(Containment {
                by: "queue".to_owned(),
                remains: 200,
            });
        }
        assert_eq!(
            impact(&graph, "bank").contained_by,
            ["queue in shop", "a fixed answer in shop"]
        );
    }

    #[test]
    fn services_that_take_each_other_down_are_found_and_do_not_hang_the_sum() {
        let mut graph = shop();
        assert!(graph.circle().is_empty());
        graph.links[3].coupling = Coupling::Hard;
        graph.links.push(link("payments", "shop", Coupling::Hard));
        assert_eq!(graph.circle(), ["shop", "payments"]);
        assert_eq!(impact(&graph, "shop").radius, 100);
    }
}
