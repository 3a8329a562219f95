//! The gateway's OpenAPI document, made from the table of routes and from the .proto files with their comments.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

use prost_reflect::{EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::message::{self, DESCRIPTORS, is_identity};
use super::routes::{ROUTES, Route};

/// The document, of OpenAPI 3.1.
pub(super) fn document() -> Value {
    let mut schemas = Schemas::default();
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route, &mut schemas);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Concord",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Distributed transactions that commit everywhere or nowhere. The gRPC API `concord.v1` in the \
                JSON mapping of Protocol Buffers: names in lowerCamelCase (those of the .proto files are taken too), 64-bit \
                numbers as strings, bytes in base64, times in RFC 3339. The header `grpc-timeout` (as `250m`: \
                milliseconds) gives a deadline; `traceparent` and `authorization` are passed on.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": { "schemas": schemas.finish() },
    })
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let rpc = message::rpc(route.service, route.rpc);
    let input = rpc.input();
    let in_path: BTreeSet<_> = names_in_path(route.path).collect();
    let rest = || input.fields().filter(|field| !in_path.contains(field.name()));
    let of_path = input.fields().filter(|field| in_path.contains(field.name()));
    let mut parameters: Vec<_> = of_path.map(|field| schemas.parameter(&field, "path")).collect();
    let mut operation = json!({
        "operationId": route.rpc,
        "tags": [route.service],
        "description": comment(&rpc.parent_service().parent_file(), rpc.path()),
    });
    if route.method == axum::http::Method::GET {
        parameters.extend(rest().map(|field| schemas.parameter(&field, "query")));
    } else if rest().next().is_some() {
        let schema = schemas.object(rest());
        operation["requestBody"] = json!({ "content": { "application/json": { "schema": schema } } });
    }
    operation["parameters"] = parameters.into();
    let (content_type, description) = match rpc.is_server_streaming() {
        true => (
            "application/x-ndjson",
            "One JSON object a line; should it break, a last line with the member `error`.",
        ),
        false => ("application/json", "Done."),
    };
    let answer = schemas.reference(&rpc.output());
    operation["responses"] = json!({
        "200": { "description": description, "content": { content_type: { "schema": answer } } },
        "default": {
            "description": "Not done, or not known to be.",
            "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
        },
    });
    operation
}

/// The names in braces.
pub(super) fn names_in_path(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

/// The schemas of all messages that were referred to.
#[derive(Default)]
struct Schemas {
    known: BTreeMap<String, Value>,
}

impl Schemas {
    fn finish(mut self) -> BTreeMap<String, Value> {
        self.known.insert("Problem".into(), problem());
        self.known
    }

    fn reference(&mut self, message: &MessageDescriptor) -> Value {
        if message.full_name() == "google.protobuf.Timestamp" {
            return json!({ "type": "string", "format": "date-time" });
        }
        let name = message.name().to_owned();
        if !self.known.contains_key(&name) {
            // Before its fields, which may refer to it.
            self.known.insert(name.clone(), Value::Null);
            let mut schema = self.object(message.fields());
            describe(&mut schema, comment(&message.parent_file(), message.path()));
            self.known.insert(name.clone(), schema);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    fn object(&mut self, fields: impl Iterator<Item = FieldDescriptor>) -> Value {
        let properties: Map<_, _> =
            fields.map(|field| (field.json_name().to_owned(), self.field(&field))).collect();
        json!({ "type": "object", "properties": properties, "additionalProperties": false })
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        let one = match field.kind() {
            Kind::Message(message) => self.reference(&message),
            Kind::Enum(values) => self.enumeration(&values),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Float | Kind::Double => json!({ "type": "number" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({ "type": "integer", "format": "int32" }),
            Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
            _ if is_identity(field) => json!({ "type": "string", "pattern": "^[0-9a-f]{16}$" }),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64 => {
                json!({ "type": "string", "pattern": "^-?[0-9]+$" })
            }
        };
        let mut schema = match field.is_list() {
            true => json!({ "type": "array", "items": one }),
            false => one,
        };
        describe(&mut schema, comment(&field.parent_message().parent_file(), field.path()));
        schema
    }

    fn enumeration(&mut self, values: &EnumDescriptor) -> Value {
        let name = values.name().to_owned();
        let file = values.parent_file();
        self.known.entry(name.clone()).or_insert_with(|| {
            let told = values.values().map(|value| match comment(&file, value.path()) {
                text if text.is_empty() => format!("- `{}`", value.name()),
                text => format!("- `{}`: {text}", value.name()),
            });
            let told: Vec<_> = std::iter::once(comment(&file, values.path())).chain(told).collect();
            let names: Vec<_> = values.values().map(|value| value.name().to_owned()).collect();
            json!({ "type": "string", "enum": names, "description": told.join("\n") })
        });
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    fn parameter(&mut self, field: &FieldDescriptor, place: &str) -> Value {
        let name = if place == "path" { field.name() } else { field.json_name() };
        let mut parameter =
            json!({ "name": name, "in": place, "required": place == "path", "schema": self.field(field) });
        describe(&mut parameter, comment(&field.parent_message().parent_file(), field.path()));
        parameter
    }
}

fn describe(schema: &mut Value, text: String) {
    if !text.is_empty() {
        schema["description"] = text.into();
    }
}

/// RFC 9457, and what Concord adds to it.
fn problem() -> Value {
    json!({
        "type": "object",
        "description": "Why a request was not carried out (RFC 9457).",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": { "type": "string", "description": "`urn:concord:problem:` and the reason, or `about:blank`." },
            "title": { "type": "string" },
            "status": { "type": "integer", "description": "The HTTP status." },
            "detail": { "type": "string", "description": "For people; may change between versions." },
            "reason": { "type": "string", "description": "Stable between versions, e.g. `UNKNOWN_GTID`." },
            "code": { "type": "string", "description": "The name of gRPC's status code, e.g. `NOT_FOUND`." },
        },
    })
}

/// The comment before something in a .proto file.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    type Comments = HashMap<(String, Vec<i32>), String>;
    static COMMENTS: LazyLock<Comments> = LazyLock::new(|| {
        let files = DESCRIPTORS.files();
        let comments = files.flat_map(|file| {
            let file = file.file_descriptor_proto().clone();
            let name = file.name().to_owned();
            let locations = file.source_code_info.unwrap_or_default().location;
            locations.into_iter().filter_map(move |location| {
                let text: Vec<_> =
                    location.leading_comments?.lines().map(|line| line.trim().to_owned()).collect();
                Some(((name.clone(), location.path), text.join("\n")))
            })
        });
        comments.collect()
    });
    COMMENTS.get(&(file.name().to_owned(), path.to_vec())).cloned().unwrap_or_default()
}
