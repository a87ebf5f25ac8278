//! Where the mobility server keeps reports and sessions.
