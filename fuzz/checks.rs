//! What must hold for any bytes at all that come from outside. `just fuzz TARGET` hunts for bytes for which it does not; `tests/fuzz.rs`
//! tries the seeds and some thousand changes to them.

use mrg_operator::dcs::{DynamicConfig, settings};
use mrg_operator::postgres::ControlFile;
use mrg_operator::proxy::{Line, parse, replay};

/// A check, and the bytes that it begins with.
pub type Check = (&'static str, fn(&[u8]));

/// All of them, by the names of their folders in `fuzz/seeds`.
pub const ALL: [Check; 4] =
    [("proxy_config", proxy_config), ("queue_log", queue_log), ("dynamic_config", dynamic_config), ("control_file", control_file)];

/// A configuration that the proxy takes is written down so that it takes it again, unchanged.
pub fn proxy_config(bytes: &[u8]) {
    let Ok(taken) = parse(bytes) else { return };
    let text = serde_json::to_vec(&*taken).expect("a configuration has words");
    let again = parse(&text).expect("what was taken is taken again");
    assert_eq!(*again, *taken);
    for dependency in &taken.dependencies {
        let _ = dependency.breaker.settings();
        // Deadlines are added to clocks.
        assert!(dependency.timeout.total.0.duration() <= std::time::Duration::from_secs(24 * 3600), "{:?}", dependency.timeout);
    }
}

/// Reading a log again after its unreadable end was cut off, or after it was written anew, gives the same requests.
pub fn queue_log(bytes: &[u8]) {
    let read = replay(bytes);
    assert!(read.whole <= bytes.len());
    assert_eq!(replay(&bytes[..read.whole]), read);
    let mut anew = Vec::new();
    for item in read.items.values() {
        let _ = item.is_older_than(std::time::Duration::from_secs(1), jiff::Timestamp::UNIX_EPOCH);
        serde_json::to_writer(&mut anew, &Line::Put(Box::new(item.clone()))).expect("a request has words");
        anew.push(b'\n');
    }
    assert_eq!(replay(&anew).items, read.items);
}

/// Whatever stands in the `config` key, the settings are some, or the reason is told.
pub fn dynamic_config(bytes: &[u8]) {
    if let Ok(config) = DynamicConfig::parse(bytes) {
        let _ = (settings(&config).map_err(|error| error.to_string()), config.parameters(), config.pg_hba());
        let mut twice = config.clone();
        twice.patch(&config.0);
        let mut again = twice.clone();
        again.patch(&config.0);
        assert_eq!(twice, again, "a patch that was applied changes nothing more");
    }
}

/// A control file that cannot be understood is told so.
pub fn control_file(bytes: &[u8]) {
    let _ = ControlFile::parse(bytes).map_err(|error| error.to_string());
}
