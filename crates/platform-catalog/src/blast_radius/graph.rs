//! The graph: parts, links and flows.

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One of the platform's services.
    Service,
    /// What services run on: database, cache, broker, the cluster itself.
    Infrastructure,
    /// Somebody else's system.
    External,
}

/// Something that can fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What holds its own failure up.
    pub contained: Option<Containment>,
}

/// What becomes of a service when a part that it uses is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coupling {
    /// It fails, too.
    Hard,
    /// It loses this share of what it does; percent.
    Partial(u32),
    /// It stays: only the flows that need the part by name are hit.
    Loose,
}

/// What holds a failure up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Containment {
    /// In a few words, such as `failover` or `queue`.
    pub by: String,
    /// The share of the loss that remains; per mille.
    pub remains: u32,
}

/// A service uses a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The service.
    pub from: String,
    /// The part.
    pub to: String,
    /// What becomes of the service.
    pub coupling: Coupling,
    /// What holds it up.
    pub contained: Option<Containment>,
}

/// What a flow needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The part.
    pub part: String,
    /// The service that asks for it, whose fallback counts; none if customers do.
    pub via: Option<String>,
    /// The share of the flow that is lost without it; percent.
    pub loss: u32,
}

/// Something that customers do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its name.
    pub name: String,
    /// Its share of all that customers do; percent. All together are 100.
    pub weight: u32,
    /// What it needs.
    pub needs: Vec<Need>,
}

/// Who depends on whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// The parts.
    pub parts: Vec<Part>,
    /// The links.
    pub links: Vec<Link>,
    /// The flows.
    pub flows: Vec<Flow>,
}

impl Graph {
    /// The part of this name.
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name == name)
    }

    /// The link between two parts.
    pub fn link(&self, from: &str, to: &str) -> Option<&Link> {
        self.links
            .iter()
            .find(|link| link.from == from && link.to == to)
    }

    /// Services that fail in a circle: each takes the next with it, and none can start before the
    /// others. Empty if there is no such circle.
    pub fn circle(&self) -> Vec<String> {
        let hard = |from: &str| {
            let from = from.to_owned();
            self.links
                .iter()
                .filter(move |link| link.from == from && link.coupling == Coupling::Hard)
                .map(|link| link.to.clone())
        };
        for part in &self.parts {
            let mut paths: Vec<Vec<String>> = vec![vec![part.name.clone()]];
            while let Some(path) = paths.pop() {
                let Some(last) = path.last() else { continue };
                for next in hard(last) {
                    if next == part.name {
                        return path;
                    }
                    if !path.contains(&next) {
                        let mut longer = path.clone();
                        longer.push(next);
                        paths.push(longer);
                    }
                }
            }
        }
        Vec::new()
    }
}
