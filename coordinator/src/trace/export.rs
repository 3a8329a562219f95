//! The way of spans to a collector: in batches, from a thread of its own, past a queue that has a bound. What does not fit
//! is lost; nobody waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData,
    SpanExporter as Exports, SpanProcessor,
};

use crate::config::Tracing;

/// Spans that wait at the most.
const QUEUE_MAX: usize = 16_384;
/// Spans in one message.
const BATCH_MAX: usize = 1_024;
/// How long a span waits for others.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// How long the collector may take for a message.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is told that it does not take them.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// How long the end of the process may be held up by spans.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
#[error("tracing.otlp_endpoint: {0}")]
pub struct ExportError(#[from] ExporterBuildError);

/// Makes spans and has them exported; the default makes none. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Exporting>>);

#[derive(Debug)]
struct Exporting {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

impl Tracer {
    /// As it is configured. Connects to nobody yet. Needs a runtime of tokio's.
    ///
    /// # Errors
    /// [`ExportError`] when the endpoint cannot be used.
    pub fn start(config: &Tracing) -> Result<Self, ExportError> {
        if config.otlp_endpoint.is_empty() {
            return Ok(Tracer::default());
        }
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(config.otlp_endpoint.as_str())
            .with_timeout(PATIENCE)
            .build()?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let processor = BatchSpanProcessor::builder(Quiet::new(exporter)).with_batch_config(batches).build();
        Ok(Tracer::through(processor, config))
    }

    pub(super) fn through(processor: impl SpanProcessor + 'static, config: &Tracing) -> Self {
        let ratio = f64::from(config.sampled_per_million) / 1e6;
        let provider = SdkTracerProvider::builder()
            .with_resource(Resource::builder().with_service_name(config.service_name.clone()).build())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
            .with_span_processor(processor)
            .build();
        Tracer(Some(Arc::new(Exporting { tracer: provider.tracer("concord"), provider })))
    }

    pub(super) fn exporting(&self) -> Option<&SdkTracer> {
        self.0.as_deref().map(|exporting| &exporting.tracer)
    }

    /// Exports what is waiting, for a few seconds at the most, and nothing after that.
    pub(crate) async fn stop(&self) {
        let Some(exporting) = self.0.clone() else { return };
        let stopped =
            tokio::task::spawn_blocking(move || exporting.provider.shutdown_with_timeout(LAST_SPANS)).await;
        match stopped {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans could not be exported"),
            Err(error) => tracing::warn!(%error, "the last spans could not be exported"),
        }
    }
}

/// An exporter that fails in silence, but for a line now and then.
#[derive(Debug)]
struct Quiet<E> {
    exporter: E,
    /// Spans of which nobody has been told yet.
    lost: AtomicU64,
    told_at: Mutex<Option<Instant>>,
}

impl<E> Quiet<E> {
    fn new(exporter: E) -> Self {
        Quiet { exporter, lost: AtomicU64::new(0), told_at: Mutex::default() }
    }

    /// How many spans have been lost since the last complaint, if it is time for one.
    fn complaint(&self, lost: u64, now: Instant) -> Option<u64> {
        self.lost.fetch_add(lost, Ordering::Relaxed);
        let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
        if told_at.is_some_and(|told_at| now.duration_since(told_at) < COMPLAINT_INTERVAL) {
            return None;
        }
        *told_at = Some(now);
        Some(self.lost.swap(0, Ordering::Relaxed))
    }
}

impl<E: Exports> Exports for Quiet<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        if let Err(error) = self.exporter.export(batch).await
            && let Some(lost) = self.complaint(count, Instant::now())
        {
            tracing::warn!(%error, lost, "spans could not be exported");
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_complains_now_and_then() {
        let quiet = Quiet::new(());
        let start = Instant::now();
        assert_eq!(quiet.complaint(5, start), Some(5));
        for second in 1..60 {
            assert_eq!(quiet.complaint(2, start + Duration::from_secs(second)), None);
        }
        assert_eq!(quiet.complaint(2, start + COMPLAINT_INTERVAL), Some(120));
        assert_eq!(quiet.complaint(1, start + 2 * COMPLAINT_INTERVAL), Some(1));
    }
}
