//! JSON for programs, tables for people.

use comfy_table::{Table, presets};
use serde_json::Value;

/// Rows for people; the columns are the keys.
pub fn table(rows: &[Value], none: &str) -> String {
    let Some(first) = rows.first().and_then(Value::as_object) else {
        return none.to_owned();
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(first.keys().map(|key| key.replace('_', " ")));
    for row in rows.iter().filter_map(Value::as_object) {
        table.add_row(row.values().map(cell));
    }
    table.to_string()
}

/// One thing for people: a line for each key.
pub fn list(value: &Value) -> String {
    let lines = value.as_object().into_iter().flatten();
    let lines = lines.map(|(key, value)| format!("{:<12} {}", key.replace('_', " "), cell(value)));
    lines.collect::<Vec<_>>().join("\n")
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{key}={}", cell(value)));
            pairs.collect::<Vec<_>>().join(" ")
        }
        Value::Number(number) if number.is_f64() => {
            format!("{:.1}", number.as_f64().unwrap_or_default())
        }
        other => other.to_string(),
    }
}
