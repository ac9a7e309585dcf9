//! CloudHub: accept, admit, one NodeLink per node.
