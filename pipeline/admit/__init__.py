"""From chunks to typed rows: the one parse of a request, at the edge."""

from pipeline.admit.admission import Admission, Admitted, Reject
from pipeline.admit.duplicates import Duplicates
from pipeline.admit.headers import HeaderColumns, HeaderReader, RequestHeaders

__all__ = ["Admission", "Admitted", "Duplicates", "HeaderColumns", "HeaderReader", "Reject", "RequestHeaders"]
