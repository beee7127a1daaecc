//! Publications, pages of history and acknowledgements, as Python sees them. Their parts become Python objects when they are asked for.

use crate::guard::guard;
use klatch::{Kind, message};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList, PyString};

/// The Python value of a message's data: what `json.loads` makes of its text, or bytes.
pub fn value_of(py: Python<'_>, kind: Kind, data: &[u8]) -> PyResult<Py<PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    match kind {
        Kind::Binary => Ok(PyBytes::new(py, data).into_any().unbind()),
        Kind::Json => {
            let loads =
                LOADS.get_or_try_init(py, || py.import("json")?.getattr("loads").map(Bound::unbind))?;
            loads.call1(py, (text_of(py, data)?,))
        }
    }
}

fn text_of<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyString>> {
    // The log holds valid UTF-8 only; that is checked on the way in.
    Ok(PyString::new(py, &String::from_utf8_lossy(data)))
}

/// A stored message.
#[pyclass(frozen, module = "klatch")]
pub struct Publication {
    inner: message::Publication,
    data: PyOnceLock<Py<PyAny>>,
}

impl From<message::Publication> for Publication {
    fn from(inner: message::Publication) -> Publication {
        Publication { inner, data: PyOnceLock::new() }
    }
}

/// A list of them.
pub fn list(py: Python<'_>, publications: Vec<message::Publication>) -> PyResult<Bound<'_, PyList>> {
    let made = publications.into_iter().map(|p| Bound::new(py, Publication::from(p)));
    PyList::new(py, made.collect::<PyResult<Vec<_>>>()?)
}

#[pymethods]
impl Publication {
    /// The room's name.
    #[getter]
    fn room(&self) -> &str {
        self.inner.room()
    }

    /// Its place in the room. Offsets of a room grow, and may skip.
    #[getter]
    fn offset(&self) -> u64 {
        self.inner.offset()
    }

    /// The offset of the publication before it in its room; 0 if there is none.
    #[getter]
    fn prev(&self) -> u64 {
        self.inner.prev()
    }

    /// The log's time of it, in seconds since 1970 UTC.
    #[getter]
    fn time(&self) -> f64 {
        self.inner.time() as f64 / 1000.0
    }

    /// The same in whole milliseconds.
    #[getter]
    fn time_ms(&self) -> u64 {
        self.inner.time()
    }

    /// Who sent it; empty for an anonymous one.
    #[getter]
    fn user(&self) -> &str {
        self.inner.user()
    }

    /// Its id: the sender's, or one that the engine made.
    #[getter]
    fn id(&self) -> String {
        self.inner.id().into_owned()
    }

    /// Its id as the sender gave it; empty if it gave none.
    #[getter]
    fn given_id(&self) -> &str {
        self.inner.record.given_id()
    }

    /// Whether its data is bytes; else it is JSON.
    #[getter]
    fn is_bytes(&self) -> bool {
        self.inner.kind() == Kind::Binary
    }

    /// Its data: what `json.loads` makes of the JSON, or bytes. Made once.
    #[getter]
    fn data(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        guard(|| {
            let record = &self.inner.record;
            let made = self.data.get_or_try_init(py, || value_of(py, record.kind(), record.data_slice()))?;
            Ok(made.clone_ref(py))
        })
    }

    /// Its data as it lies in the log: UTF-8 JSON text exactly as it was sent, or bytes.
    #[getter]
    fn raw<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.inner.record.data_slice())
    }

    fn __repr__(&self) -> String {
        let p = &self.inner;
        format!("<klatch.Publication {} in {:?}>", p.offset(), p.room())
    }
}

/// A page of a room's history.
#[pyclass(frozen, get_all, module = "klatch")]
pub struct HistoryPage {
    /// The publications, in the order asked for.
    publications: Py<PyList>,
    /// Whether the range holds more, in the direction read.
    more: bool,
    /// The room's last offset.
    last: u64,
    /// Which incarnation of the room's stream the offsets belong to.
    epoch: String,
}

impl HistoryPage {
    /// From the engine's.
    pub fn new(py: Python<'_>, page: klatch::HistoryPage) -> PyResult<HistoryPage> {
        let publications = list(py, page.publications)?.unbind();
        Ok(HistoryPage { publications, more: page.more, last: page.last, epoch: page.epoch.to_string() })
    }
}

#[pymethods]
impl HistoryPage {
    fn __len__(&self, py: Python<'_>) -> usize {
        self.publications.bind(py).len()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyIterator>> {
        self.publications.bind(py).try_iter()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<klatch.HistoryPage of {}>", self.__len__(py))
    }
}

/// What a publish came to: the message is stored.
#[pyclass(frozen, module = "klatch")]
pub struct Ack(klatch::Ack);

impl From<klatch::Ack> for Ack {
    fn from(ack: klatch::Ack) -> Ack {
        Ack(ack)
    }
}

#[pymethods]
impl Ack {
    /// Its place in its room.
    #[getter]
    fn offset(&self) -> u64 {
        self.0.position.offset
    }

    /// Which incarnation of the room's stream the offset belongs to.
    #[getter]
    fn epoch(&self) -> String {
        self.0.position.epoch.to_string()
    }

    /// The message's id; made by the engine if none was given.
    #[getter]
    fn id(&self) -> &str {
        &self.0.id
    }

    /// Whether it had been stored before, by an earlier publish with the same id.
    #[getter]
    fn duplicate(&self) -> bool {
        self.0.duplicate
    }

    fn __repr__(&self) -> String {
        let again = if self.0.duplicate { ", a duplicate" } else { "" };
        format!("<klatch.Ack {}{again}>", self.0.position.offset)
    }
}
