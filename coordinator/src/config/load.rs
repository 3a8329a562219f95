//! Puts the layers together and remembers where each value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::allow_list::Address;
use super::error::{ConfigError, Problem, quoted};
use super::keys::{self, Field, Key};
use super::{Config, DatabaseUrl, Resource, Service, environment, file, resource};

/// The layers on top of the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// The TOML file. It must exist; None: there is none.
    pub file: Option<PathBuf>,
    /// The process's environment; variables that do not begin with `CONCORD_` are passed over.
    pub environment: Vec<(String, String)>,
    /// What the command line sets, in its order: the last word counts.
    pub flags: Vec<Flag>,
}

/// One setting from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// As the user wrote it, for errors: `--listen`.
    pub flag: String,
    /// What it sets: `server.listen`.
    pub key: String,
    /// Its value; for a list, its elements.
    pub value: FlagValue,
}

/// The value of a [`Flag`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagValue {
    /// One value; of a list, the elements with commas between them.
    One(String),
    /// The elements of a list.
    Many(Vec<String>),
}

/// A configuration, with where each of its values came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// By key path, e.g. `server.listen`; what is missing is a default.
    pub(super) origins: BTreeMap<String, Origin>,
    /// Of the resources' URLs and participants, in the order of `config.resources`.
    pub(super) resource_origins: Vec<ResourceOrigins>,
    /// In the order of `config.services`.
    pub(super) service_origins: Vec<ServiceOrigins>,
}

/// Where the parts of a service came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceOrigins {
    pub(super) name: Origin,
    pub(super) addresses: Origin,
}

/// Where the parts of a resource came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResourceOrigins {
    pub(super) name: Origin,
    pub(super) url: Origin,
    pub(super) participants: Origin,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    File { name: Arc<str>, line: usize },
    Variable(String),
    Flag(String),
}

impl Origin {
    /// For putting problems in order: the file's first, in its own order.
    pub(super) fn line(&self) -> usize {
        match self {
            Origin::File { line, .. } => *line,
            Origin::Default | Origin::Variable(_) | Origin::Flag(_) => usize::MAX,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { name, line: 0 } => f.write_str(name),
            Origin::File { name, line } => write!(f, "{name}:{line}"),
            Origin::Variable(name) | Origin::Flag(name) => f.write_str(name),
        }
    }
}

/// A value before anyone has looked at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    Text(String),
    Integer(i128),
    Boolean(bool),
    List(Vec<String>),
    /// From the environment or a flag, where everything is text.
    Written(String),
    /// Of a kind that no key has.
    Other(&'static str),
}

impl Raw {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Raw::Text(_) | Raw::Written(_) => "a string",
            Raw::Integer(_) => "an integer",
            Raw::Boolean(_) => "a boolean",
            Raw::List(_) => "a list",
            Raw::Other(kind) => kind,
        }
    }

    /// As errors show it; None when the kind says more.
    fn shown(&self) -> Option<String> {
        match self {
            Raw::Text(text) | Raw::Written(text) => Some(quoted(text)),
            Raw::Integer(number) => Some(number.to_string()),
            Raw::Boolean(value) => Some(value.to_string()),
            Raw::List(_) | Raw::Other(_) => None,
        }
    }
}

/// A configuration under construction.
#[derive(Default)]
pub(super) struct Draft {
    config: Config,
    origins: BTreeMap<String, Origin>,
    resources: Vec<ResourceDraft>,
    service_origins: Vec<ServiceOrigins>,
    problems: Vec<Problem>,
}

impl Draft {
    pub(super) fn problem(&mut self, origin: Origin, what: String) {
        self.problems.push(Problem { origin, what });
    }

    /// Gives `key` a value, if it is one that the key can have.
    pub(super) fn set(&mut self, key: &Key, raw: Raw, origin: Origin) {
        let path = key.path();
        match assign(&mut self.config, key, &raw) {
            Ok(()) => {
                self.origins.insert(path, origin);
            }
            Err(why) => {
                let what = match raw.shown() {
                    Some(shown) if !matches!(key.field, Field::Secret { .. }) => {
                        format!("{path} = {shown}: {why}")
                    }
                    _ => format!("{path}: {why}"),
                };
                self.problem(origin, what);
            }
        }
    }

    /// Takes out the resource of this name, or begins one.
    pub(super) fn take_resource(&mut self, name: &str, origin: &Origin) -> ResourceDraft {
        match self.resources.iter().position(|resource| resource.name == name) {
            Some(position) => self.resources.remove(position),
            None => ResourceDraft { name: name.to_owned(), ..ResourceDraft::new(origin.clone()) },
        }
    }

    pub(super) fn add_resource(&mut self, resource: ResourceDraft, origin: Origin) {
        if self.resources.iter().any(|other| other.name == resource.name && !other.name.is_empty()) {
            let what =
                format!("resource.name = {}: there is another resource of this name", quoted(&resource.name));
            self.problem(origin, what);
        }
        self.resources.push(resource);
    }

    /// Takes a service that has all it needs; `origin`: of its table.
    pub(super) fn add_service(&mut self, service: ServiceDraft, origin: Origin) {
        let name = &service.service.name;
        let missing = [("name", name.is_empty()), ("addresses", service.addresses_origin.is_none())];
        for (key, _) in missing.into_iter().filter(|(_, is_missing)| *is_missing) {
            self.problem(origin.clone(), format!("service.{key} is missing"));
        }
        if let Some(why) = resource::name_problem(name).filter(|_| !name.is_empty()) {
            self.problem(origin.clone(), format!("service.name = {}: {why}", quoted(name)));
        }
        if self.config.services.iter().any(|other| other.name == *name) {
            let what = format!("service.name = {}: there is another service of this name", quoted(name));
            self.problem(origin.clone(), what);
        }
        let addresses = service.addresses_origin.unwrap_or_else(|| origin.clone());
        self.service_origins.push(ServiceOrigins { name: origin, addresses });
        self.config.services.push(service.service);
    }

    fn finish(mut self) -> Result<Loaded, ConfigError> {
        self.check_pair("transaction", "timeout_default_ms", "timeout_max_ms");
        self.check_pair("phase_two", "backoff_first_ms", "backoff_max_ms");
        self.check_pair("limits", "page_size_default", "page_size_max");
        self.check_needs("server", "tls_certificate", "tls_key");
        self.check_needs("server", "tls_key", "tls_certificate");
        self.check_needs("server", "tls_client_ca", "tls_certificate");
        self.check_needs("calls", "tls_certificate", "tls_key");
        self.check_needs("calls", "tls_key", "tls_certificate");
        self.check_needs("security", "jwks", "jwt_audience");
        let mut resource_origins = Vec::new();
        let mut drafts = std::mem::take(&mut self.resources);
        drafts.sort_by_key(|draft| draft.origins.name.line());
        for draft in drafts {
            let origins = draft.origins.clone();
            if let Some(resource) = draft.finish(&mut self) {
                self.config.resources.push(resource);
                resource_origins.push(origins);
            }
        }
        self.check_participants(&resource_origins);
        if self.problems.is_empty() {
            let Draft { config, origins, service_origins, .. } = self;
            Ok(Loaded { config, origins, resource_origins, service_origins })
        } else {
            Err(ConfigError::new(self.problems))
        }
    }

    /// The first of two keys must not be above the second.
    fn check_pair(&mut self, section: &str, low: &str, high: &str) {
        let (Some(low), Some(high)) = (keys::find(section, low), keys::find(section, high)) else { return };
        let (Field::Integer { get: get_low, .. }, Field::Integer { get: get_high, .. }) =
            (&low.field, &high.field)
        else {
            return;
        };
        let (low_value, high_value) = (get_low(&self.config), get_high(&self.config));
        if low_value > high_value {
            let set = [low.path(), high.path()].into_iter().find_map(|path| self.origins.get(&path));
            let origin = set.cloned().unwrap_or(Origin::Default);
            let what = format!("{} = {low_value} is above {} = {high_value}", low.path(), high.path());
            self.problem(origin, what);
        }
    }

    /// Where the first of two keys is set, the second must be.
    fn check_needs(&mut self, section: &str, name: &str, needed: &str) {
        let is_set = |name| match keys::find(section, name).map(|key| &key.field) {
            Some(Field::Text { get, .. }) => !get(&self.config).is_empty(),
            _ => false,
        };
        if is_set(name) && !is_set(needed) {
            let origin = self.origins.get(&format!("{section}.{name}")).cloned().unwrap_or(Origin::Default);
            self.problem(origin, format!("{section}.{name} needs {section}.{needed}"));
        }
    }

    /// A participant's branches live in one database.
    fn check_participants(&mut self, origins: &[ResourceOrigins]) {
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        let mut twice = Vec::new();
        for (resource, origins) in self.config.resources.iter().zip(origins) {
            for participant in &resource.participants {
                if let Some(owner) = owners.insert(participant, &resource.name) {
                    let what = format!(
                        "resource.participants: {participant} is a participant of {owner:?} and of {:?}; it can have \
                         one resource only",
                        resource.name
                    );
                    twice.push(Problem { origin: origins.participants.clone(), what });
                }
            }
        }
        self.problems.append(&mut twice);
    }
}

/// A service under construction.
#[derive(Default)]
pub(super) struct ServiceDraft {
    pub(super) service: Service,
    /// None: they were not given, neither right nor wrong.
    pub(super) addresses_origin: Option<Origin>,
}

/// Most addresses of one service.
const ADDRESSES_MAX: usize = 1000;

impl ServiceDraft {
    pub(super) fn set_addresses(&mut self, list: Vec<String>, origin: Origin, draft: &mut Draft) {
        if !(1..=ADDRESSES_MAX).contains(&list.len()) {
            let what =
                format!("service.addresses: {} of them; from 1 to {ADDRESSES_MAX} are allowed", list.len());
            draft.problem(origin.clone(), what);
        }
        let mut known = Vec::new();
        for address in &list {
            let why = match Address::parse(address) {
                Ok(place) if !place.is_place() => Some("it is a name"),
                Ok(place) if known.contains(&place) => Some("it is there twice"),
                Ok(place) => {
                    known.push(place);
                    None
                }
                Err(why) => Some(why),
            };
            if let Some(why) = why {
                let what = format!(
                    "service.addresses: {} is not an address such as \"http://10.0.0.1:7101\": {why}",
                    quoted(address)
                );
                draft.problem(origin.clone(), what);
            }
        }
        let by_post = known.iter().filter(|place| place.is_by_post()).count();
        if !(by_post == 0 || by_post == known.len()) {
            let what = format!(
                "service.addresses: {by_post} of them have a path and are called by POST, and {} have none and are called by \
                 gRPC; a service is called in one way: make two of it",
                known.len() - by_post
            );
            draft.problem(origin.clone(), what);
        }
        self.service.addresses = list;
        self.addresses_origin = Some(origin);
    }
}

/// A resource under construction.
pub(super) struct ResourceDraft {
    pub(super) name: String,
    /// Whether a URL was given, right or wrong.
    has_url: bool,
    url: Option<DatabaseUrl>,
    participants: Vec<String>,
    origins: ResourceOrigins,
}

/// Most participants of one resource.
const PARTICIPANTS_MAX: usize = 1000;

impl ResourceDraft {
    pub(super) fn new(origin: Origin) -> Self {
        let origins = ResourceOrigins { name: origin, url: Origin::Default, participants: Origin::Default };
        ResourceDraft { name: String::new(), has_url: false, url: None, participants: Vec::new(), origins }
    }

    pub(super) fn set_url(&mut self, text: &str, origin: Origin, draft: &mut Draft) {
        self.has_url = true;
        match DatabaseUrl::parse(text) {
            Ok(url) => self.url = Some(url),
            Err(error) => draft.problem(origin.clone(), format!("resource.url: {error}")),
        }
        self.origins.url = origin;
    }

    pub(super) fn set_participants(&mut self, list: Vec<String>, origin: Origin, draft: &mut Draft) {
        if list.len() > PARTICIPANTS_MAX {
            let what = format!(
                "resource.participants: {} of them; at most {PARTICIPANTS_MAX} are allowed",
                list.len()
            );
            draft.problem(origin.clone(), what);
        }
        for participant in &list {
            if let Err(why) = Address::parse(participant) {
                let what = format!(
                    "resource.participants: {} is not an address such as \"http://127.0.0.1:7101\": {why}",
                    quoted(participant)
                );
                draft.problem(origin.clone(), what);
            }
        }
        self.participants = list;
        self.origins.participants = origin;
    }

    fn finish(self, draft: &mut Draft) -> Option<Resource> {
        let origin = self.origins.name;
        if self.name.is_empty() {
            draft.problem(origin.clone(), "resource.name is missing".to_owned());
        } else if let Some(why) = resource::name_problem(&self.name) {
            draft.problem(origin.clone(), format!("resource.name = {}: {why}", quoted(&self.name)));
        }
        if !self.has_url {
            let mut what = format!("resource.url is missing for the resource {}", quoted(&self.name));
            if !self.name.is_empty() {
                let variable = environment::url_variable(&self.name);
                what.push_str(&format!(
                    ": it is neither in the file nor in the environment, where it would be {variable}; a file of variables \
                     is named by --environment-file"
                ));
            }
            draft.problem(origin, what);
        }
        Some(Resource { name: self.name, url: self.url?, participants: self.participants })
    }
}

/// Reads `raw` as what `key` holds, checks the limits, and sets it.
fn assign(config: &mut Config, key: &Key, raw: &Raw) -> Result<(), String> {
    match (&key.field, raw) {
        (Field::Integer { set, range, .. }, raw) => {
            let limits = || format!("must be an integer from {} to {}", range.start(), range.end());
            let number = match raw {
                Raw::Integer(number) => u64::try_from(*number).map_err(|_| limits())?,
                Raw::Written(text) => text.replace('_', "").parse().map_err(|_| limits())?,
                other => return Err(format!("{}, not {}", limits(), other.kind())),
            };
            if !range.contains(&number) {
                return Err(limits());
            }
            set(config, number);
            Ok(())
        }
        (Field::Boolean { set, .. }, raw) => {
            let value = match raw {
                Raw::Boolean(value) => *value,
                Raw::Written(text) => text.parse().map_err(|_| "must be true or false")?,
                other => return Err(format!("must be true or false, not {}", other.kind())),
            };
            set(config, value);
            Ok(())
        }
        (Field::Text { set, .. } | Field::Secret { set, .. }, Raw::Text(text) | Raw::Written(text)) => {
            set(config, text)
        }
        (Field::Text { .. } | Field::Secret { .. }, other) => {
            Err(format!("must be a string, not {}", other.kind()))
        }
        (Field::List { set, .. }, Raw::List(list)) => set(config, list),
        (Field::List { set, .. }, Raw::Written(text)) => set(config, &environment::split_list(text)),
        (Field::List { .. }, other) => Err(format!("must be a list of strings, not {}", other.kind())),
    }
}

pub(super) fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut draft = Draft::default();
    if let Some(path) = &sources.file {
        read_file(path, &mut draft);
    }
    environment::read(&sources.environment, &mut draft);
    for flag in &sources.flags {
        read_flag(flag, &mut draft);
    }
    draft.finish()
}

pub(super) fn load_text(text: &str, name: &str) -> Result<Loaded, ConfigError> {
    let mut draft = Draft::default();
    file::read(text, name, &mut draft);
    draft.finish()
}

fn read_file(path: &Path, draft: &mut Draft) {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => file::read(&text, &name, draft),
        Err(error) => {
            let origin = Origin::File { name: Arc::from(name), line: 0 };
            draft.problem(origin, format!("cannot be read: {error}"));
        }
    }
}

fn read_flag(flag: &Flag, draft: &mut Draft) {
    let origin = Origin::Flag(flag.flag.clone());
    let found = flag.key.split_once('.').map(|(section, name)| (section, name, keys::find(section, name)));
    let raw = match &flag.value {
        FlagValue::One(text) => Raw::Written(text.clone()),
        FlagValue::Many(list) => Raw::List(list.clone()),
    };
    match found {
        Some((_, _, Some(key))) => draft.set(key, raw, origin),
        Some((section, name, None)) if keys::sections().contains(&section) => {
            draft.problem(origin, file::unknown_key(section, name));
        }
        _ => {
            let paths: Vec<_> = keys::KEYS.iter().map(Key::path).collect();
            let hint = match super::nearest::nearest(&flag.key, paths.iter().map(String::as_str)) {
                Some(known) => format!("did you mean {known}?"),
                None => "`concord config example` names all keys".to_owned(),
            };
            draft.problem(origin, format!("unknown key {}; {hint}", quoted(&flag.key)));
        }
    }
}
