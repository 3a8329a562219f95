//! The web console: pages that are compiled in, and that ask the [gateway](super::gateway) for all that they show.

use axum::Router;
use axum::http::{HeaderName, header};
use axum::response::Redirect;
use axum::routing::get;

/// Where it is.
const PLACE: &str = "/console/";

struct Asset {
    name: &'static str,
    content_type: &'static str,
    content: &'static str,
}

macro_rules! assets {
    ($($name:literal: $content_type:literal),* $(,)?) => {
        [$(Asset { name: $name, content_type: $content_type, content: include_str!(concat!("../../console/", $name)) }),*]
    };
}

static ASSETS: [Asset; 13] = assets! {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "api.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "list.js": "text/javascript; charset=utf-8",
    "main.js": "text/javascript; charset=utf-8",
    "overview.js": "text/javascript; charset=utf-8",
    "participants.js": "text/javascript; charset=utf-8",
    "resources.js": "text/javascript; charset=utf-8",
    "transaction.js": "text/javascript; charset=utf-8",
    "transactions.js": "text/javascript; charset=utf-8",
    "words.js": "text/javascript; charset=utf-8",
};

/// Nothing from elsewhere is loaded, nothing that stands in a page is run, and no other page shows this one.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // Another version of the program has other pages.
    (header::CACHE_CONTROL, "no-cache"),
];

/// The console's routes; `/` leads to it.
pub(super) fn router() -> Router {
    let to_console = || async { Redirect::temporary(PLACE) };
    let mut router =
        Router::new().route("/", get(to_console)).route(PLACE.trim_end_matches('/'), get(to_console));
    for Asset { name, content_type, content } in &ASSETS {
        let name = if *name == "index.html" { "" } else { name };
        let answer = move || async move { (HEADERS, [(header::CONTENT_TYPE, *content_type)], *content) };
        router = router.route(&format!("{PLACE}{name}"), get(answer));
    }
    router
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_console_is_compiled_in() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/console");
        let mut files: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut known: Vec<_> = ASSETS.iter().map(|asset| asset.name.to_owned()).collect();
        files.sort();
        known.sort();
        assert_eq!(known, files);
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        for Asset { name, content, .. } in &ASSETS {
            let content = content.replace("http://www.w3.org/2000/svg", "");
            assert!(!content.contains("http://") && !content.contains("https://"), "{name}");
            for way in ["innerHTML = ", "outerHTML = ", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!content.contains(way), "{name}: {way}: what comes from outside is never markup");
            }
        }
    }
}
