//! When the configuration is read again: on SIGHUP, and when it or a file that it names has changed.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use concord_coordinator::config::{Config, Reading};
use futures_util::{Stream, stream};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ConfigArgs;
use super::Failure;

/// How often to look whether a file has changed.
const INTERVAL: Duration = Duration::from_secs(1);

/// The configuration, each time that there is reason to read it again. Where it has problems, the last one without comes once
/// more: what changed may be a file that it names.
pub(super) fn configurations(
    args: ConfigArgs,
    first: &Config,
) -> std::io::Result<impl Stream<Item = Reading> + use<>> {
    let hangup = signal(SignalKind::hangup())?;
    let files = Files::of(&args, [first, first]);
    let state = (args, first.clone(), first.clone(), files, hangup);
    Ok(stream::unfold(state, async |(args, first, mut last, mut files, mut hangup)| {
        files.changed_or(&mut hangup).await;
        let problems = match args.load() {
            Ok(loaded) => {
                last = loaded.config;
                None
            }
            Err(Failure::Said { message, .. }) => Some(message),
            Err(Failure::ClosedPipe) => None,
        };
        // Where a file is can change with a restart only; until then the first one counts.
        let files = Files::of(&args, [&first, &last]);
        let reading = Reading { config: last.clone(), problems };
        Some((reading, (args, first, last, files, hangup)))
    }))
}

/// Files, as they were when they were looked at.
struct Files(Vec<(PathBuf, Option<Look>)>);

/// What shows that a file is another one: when it was written, how long it is, and which it is.
type Look = (SystemTime, u64, u64);

impl Files {
    fn of(args: &ConfigArgs, configs: [&Config; 2]) -> Self {
        let named = configs.into_iter().flat_map(Config::files).map(Path::to_owned);
        let all = args.files().chain(named);
        Files(all.map(|path| (path.clone(), look(&path))).collect())
    }

    /// Waits for a change, or for the signal.
    async fn changed_or(&mut self, hangup: &mut Signal) {
        loop {
            tokio::select! {
                _ = hangup.recv() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let changed = self.0.iter().any(|(path, before)| look(path) != *before);
            if changed {
                // Whatever the change is worth, it is one change.
                self.0.iter_mut().for_each(|(path, before)| *before = look(path));
                return;
            }
        }
    }
}

fn look(path: &Path) -> Option<Look> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}
