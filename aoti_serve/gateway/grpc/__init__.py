"""The gateway's gRPC server: `GRPCInferenceService` of the Open Inference Protocol, and gRPC's own health service.

Messages stay bytes until `protocol.grpc` reads them: protobuf's classes are registered nowhere, so that a process may
import those of any client as well.
"""
