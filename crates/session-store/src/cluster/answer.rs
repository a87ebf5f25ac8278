//! What the script answers: an outcome, then the record as it is shown, if there is one: revision, value, milliseconds
//! that remain (-1: no end, or no value), and for each report agent, counter, order, body.
use std::time::Duration;

use ::redis::Value;
use bytes::Bytes;

use crate::{Key, Record, Report, Revision, StoreError};

pub(crate) struct Answer {
    fields: Vec<Option<Bytes>>,
}

/// The cluster speaks, but not as it should.
pub(crate) fn misread(what: &str) -> StoreError {
    StoreError::Failed {
        reason: format!(
            "the cluster's answer makes no sense ({what}); does another program use keys that begin with \"mobility:\"?"
        ),
    }
}

impl Answer {
    pub(crate) fn read(value: Value) -> Result<Self, StoreError> {
        let Value::Array(items) = value else {
            return Err(misread("it is no array"));
        };
        let fields = items
            .into_iter()
            .map(|item| match item {
                Value::BulkString(bytes) => Ok(Some(Bytes::from(bytes))),
                Value::Nil | Value::Boolean(false) => Ok(None),
                _ => Err(misread("a field is no string")),
            })
            .collect::<Result<_, _>>()?;
        Ok(Answer { fields })
    }

    pub(crate) fn outcome(&self) -> &[u8] {
        self.fields.first().and_then(Option::as_deref).unwrap_or_default()
    }

    /// The number behind the outcome.
    pub(crate) fn revision(&self) -> Result<Revision, StoreError> {
        self.number(1).map(Revision)
    }

    /// The record, if one is shown.
    pub(crate) fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        if self.fields.len() == 1 {
            return Ok(None);
        }
        let value = self.fields.get(2).cloned().flatten();
        let mut reports = (4..self.fields.len())
            .step_by(4)
            .map(|at| {
                Ok(Report {
                    agent: self.bytes(at)?,
                    counter: self.number(at + 1)?,
                    filed: self.number(at + 2).map(Revision)?,
                    body: self.bytes(at + 3)?,
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        reports.sort_by_key(|report| report.filed);
        let remaining = self.number(3).ok().filter(|_| value.is_some());
        Ok(Some(Record {
            key: key.clone(),
            revision: self.revision()?,
            value,
            // A negative number is none.
            remaining: remaining.map(Duration::from_millis),
            reports,
        }))
    }

    fn bytes(&self, at: usize) -> Result<Bytes, StoreError> {
        self.fields
            .get(at)
            .cloned()
            .flatten()
            .ok_or_else(|| misread("a field is missing"))
    }

    fn number(&self, at: usize) -> Result<u64, StoreError> {
        let bytes = self.bytes(at)?;
        std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| misread("a field is no number"))
    }
}
