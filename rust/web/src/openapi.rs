//! The routes as a table, of which both the router and the description of the interface are made, so that neither can
//! know what the other does not.

use axum::Router;
use axum::routing::MethodRouter;
use serde_json::{Map, Value, json};

/// What is sent along, or comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Nothing,
    Json,
    Text,
    /// Of an archive.
    Bytes,
    Events,
    Metrics,
}

impl Content {
    fn media_type(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Json => Some("application/json"),
            Self::Text => Some("text/plain"),
            Self::Bytes => Some("application/octet-stream"),
            Self::Events => Some("text/event-stream"),
            Self::Metrics => Some("text/plain; version=0.0.4"),
        }
    }

    fn described(self) -> Option<Value> {
        let schema = match self {
            Self::Json => json!({}),
            Self::Nothing | Self::Text | Self::Bytes | Self::Events | Self::Metrics => json!({ "type": "string" }),
        };
        self.media_type().map(|name| json!({ name: { "schema": schema } }))
    }
}

/// One thing that can be asked for.
pub(crate) struct Entry<S> {
    method: &'static str,
    path: &'static str,
    says: &'static str,
    handler: MethodRouter<S>,
    /// Name, type of JSON schema, and what it means.
    query: Vec<(&'static str, &'static str, &'static str)>,
    /// What is sent along, and schemas of its fields when it is JSON.
    body: Content,
    fields: Vec<(&'static str, &'static str)>,
    status: &'static str,
    answer: Content,
}

impl<S> Entry<S> {
    /// `path` is as axum and OpenAPI write it; by default the answer is JSON, with status 200.
    pub fn new(method: &'static str, path: &'static str, says: &'static str, handler: MethodRouter<S>) -> Self {
        Self {
            method,
            path,
            says,
            handler,
            query: Vec::new(),
            body: Content::Nothing,
            fields: Vec::new(),
            status: "200",
            answer: Content::Json,
        }
    }

    pub fn query(mut self, name: &'static str, kind: &'static str, says: &'static str) -> Self {
        self.query.push((name, kind, says));
        self
    }

    pub fn body(mut self, body: Content, fields: &[(&'static str, &'static str)]) -> Self {
        (self.body, self.fields) = (body, fields.to_vec());
        self
    }

    pub fn answers(mut self, status: &'static str, answer: Content) -> Self {
        (self.status, self.answer) = (status, answer);
        self
    }

    fn described(&self) -> Value {
        let in_path = self
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let mut parameters: Vec<Value> = in_path
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        parameters.extend(self.query.iter().map(|(name, kind, says)| {
            json!({ "name": name, "in": "query", "description": says, "schema": { "type": kind } })
        }));
        let mut answer = json!({ "description": "What was asked for." });
        if let Some(content) = self.answer.described() {
            answer["content"] = content;
        }
        let failed = |why: &str| json!({ "description": why, "content": Content::Text.described() });
        let mut described = json!({
            "summary": self.says,
            "operationId": self.name(),
            "parameters": parameters,
            "responses": {
                self.status: answer,
                "400": failed("The request makes no sense; the text says why."),
                "401": failed("The request shows no key."),
                "403": failed("The key is another cluster's, or the request comes from a page or a name that may not ask."),
                "404": failed("There is no such thing."),
            },
        });
        if let Some(mut content) = self.body.described() {
            if self.body == Content::Json {
                let fields: Map<String, Value> = (self.fields.iter())
                    .map(|(name, kind)| ((*name).to_owned(), json!({ "type": kind })))
                    .collect();
                content["application/json"]["schema"] = json!({ "type": "object", "properties": fields });
            }
            described["requestBody"] = json!({ "required": true, "content": content });
        }
        described
    }

    /// Unique, as method and path are together.
    fn name(&self) -> String {
        let words = self.path.split(|letter: char| !letter.is_ascii_alphanumeric());
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        // A slash at the end makes another path.
        let end = if self.path.len() > 1 && self.path.ends_with('/') {
            "_"
        } else {
            ""
        };
        format!("{}_{}{end}", self.method, words.join("_"))
    }
}

/// All that is in the table.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(table: Vec<Entry<S>>) -> Router<S> {
    table
        .into_iter()
        .fold(Router::new(), |router, entry| router.route(entry.path, entry.handler))
}

/// The description of the table, of version 3.1 of OpenAPI.
pub(crate) fn description<S>(table: &[Entry<S>]) -> Value {
    let mut paths = Map::new();
    for entry in table {
        let path = paths.entry(entry.path).or_insert_with(|| json!({}));
        path[entry.method] = entry.described();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ray_rs",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Jobs, the state of the cluster, and what its page asks for. `ray_rs get-auth-token` prints the key.",
        },
        "paths": paths,
        "security": [{ "key": [] }],
        "components": { "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } } },
    })
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};

    use super::*;

    #[test]
    fn a_table_is_described() {
        let table: Vec<Entry<()>> = vec![
            Entry::new("get", "/things/{id}", "One thing", get(|| async {})).query("detail", "boolean", "All of it"),
            Entry::new("post", "/things/{id}", "Change it", post(|| async {}))
                .body(Content::Json, &[("name", "string")])
                .answers("204", Content::Nothing),
            Entry::new("get", "/things/", "All", get(|| async {})).answers("200", Content::Text),
            Entry::new("get", "/things", "All", get(|| async {})),
        ];
        let described = description(&table);
        let paths = described["paths"].as_object().expect("paths");
        assert_eq!(
            paths.keys().collect::<Vec<_>>(),
            ["/things", "/things/", "/things/{id}"]
        );
        let one = &paths["/things/{id}"];
        let parameters = one["get"]["parameters"].as_array().expect("parameters");
        assert_eq!(
            (&parameters[0]["name"], &parameters[0]["in"]),
            (&json!("id"), &json!("path"))
        );
        assert_eq!(
            (&parameters[1]["name"], &parameters[1]["in"]),
            (&json!("detail"), &json!("query"))
        );
        let fields = &one["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"];
        assert_eq!(*fields, json!({ "name": { "type": "string" } }));
        assert_eq!(one["post"]["responses"]["204"]["content"], Value::Null);
        let names = paths
            .values()
            .flat_map(|path| path.as_object().expect("methods").values());
        let names: std::collections::BTreeSet<&str> = names.filter_map(|of| of["operationId"].as_str()).collect();
        assert_eq!(names.len(), table.len());
    }
}
