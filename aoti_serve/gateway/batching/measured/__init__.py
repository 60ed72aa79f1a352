"""What is measured of batches and clients: costs, throughput, and times in which clients come back. Pure."""
