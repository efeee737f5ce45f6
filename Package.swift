// swift-tools-version: 6.1
import PackageDescription

// Targets stand in the order of docs/architecture.md: each imports only targets above it.
let package = Package(
    name: "apus",
    products: [
        .executable(name: "apus", targets: ["apus"]),
        .library(
            name: "Apus",
            targets: [
                "ApusTensor", "ApusDistributed", "ApusLayers", "ApusAttention", "ApusText", "ApusModels",
                "ApusTraining", "ApusEngine",
                "ApusTeaching", "ApusPlanning", "ApusServer", "ApusServeBenchmark",
            ]),
        .library(name: "apus_attention", type: .dynamic, targets: ["ApusAttentionC"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-http-types", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-nio-extras", from: "1.35.2"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        .target(name: "CApusKernels"),
        .target(name: "CApusCUDA"),
        .target(name: "CApusMPI"),
        .target(name: "ApusSynchronization"),
        .target(
            name: "ApusTensor", dependencies: ["ApusSynchronization", "CApusKernels", "CApusCUDA"],
            resources: [.embedInCode("Kernels")]),
        .target(
            name: "ApusDistributed", dependencies: ["ApusSynchronization", "ApusTensor", "CApusCUDA", "CApusMPI"]),
        .target(name: "ApusLayers", dependencies: ["ApusTensor"]),
        .target(
            name: "ApusAttention", dependencies: ["ApusSynchronization", "ApusTensor", "ApusLayers", "CApusKernels"],
            resources: [.embedInCode("Kernels")]),
        .target(
            name: "ApusAttentionC", dependencies: ["ApusAttention", "ApusTensor"], exclude: ["apus_attention.h"]),
        .target(name: "CApusCompression"),
        .target(name: "ApusText", dependencies: ["ApusSynchronization", "CApusCompression"]),
        .target(
            name: "ApusModels",
            dependencies: [
                "ApusSynchronization", "ApusTensor", "ApusDistributed", "ApusLayers", "ApusAttention", "ApusText",
            ]),
        .target(name: "ApusReport"),
        .target(
            name: "ApusTraining",
            dependencies: [
                "ApusReport", "ApusSynchronization", "ApusDistributed", "ApusModels", "ApusText", "ApusLayers",
                "ApusAttention",
                "ApusTensor",
                .product(name: "Yams", package: "Yams"),
            ]),
        .target(
            name: "ApusEngine",
            dependencies: ["ApusSynchronization", "ApusDistributed", "ApusModels", "ApusAttention", "ApusText"]),
        .target(name: "ApusServeBenchmark", dependencies: ["ApusText"]),
        .target(
            name: "ApusPlanning",
            dependencies: [
                "ApusReport", "ApusTensor", "ApusText", "ApusAttention", "ApusModels", "ApusEngine",
                "ApusServeBenchmark",
            ]),
        .target(
            name: "ApusTeaching",
            dependencies: [
                "ApusSynchronization", "ApusReport", "ApusTensor", "ApusText", "ApusAttention", "ApusModels",
                "ApusTraining", "ApusEngine",
            ]),
        .target(
            name: "ApusServer",
            dependencies: [
                "ApusSynchronization", "ApusEngine", "ApusModels", "ApusText", "ApusTensor",
                .product(name: "Hummingbird", package: "hummingbird"),
                .product(name: "HummingbirdCore", package: "hummingbird"),
                .product(name: "HummingbirdTLS", package: "hummingbird"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"),
                .product(name: "NIOHTTPTypes", package: "swift-nio-extras"),
                .product(name: "NIOHTTPTypesHTTP1", package: "swift-nio-extras"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
            ],
            resources: [.embedInCode("Resources")]),
        .executableTarget(
            name: "apus",
            dependencies: [
                "ApusServer", "ApusTeaching", "ApusEngine", "ApusTraining", "ApusModels", "ApusText", "ApusAttention",
                "ApusDistributed", "ApusPlanning", "ApusServeBenchmark", "CApusKernels",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ]),
        .testTarget(name: "ApusTensorTests", dependencies: ["ApusSynchronization", "ApusTensor", "CApusKernels"]),
        .testTarget(name: "ApusDistributedTests", dependencies: ["ApusDistributed", "ApusTensor"]),
        .testTarget(name: "ApusAttentionTests", dependencies: ["ApusAttention"]),
        .testTarget(name: "ApusTextTests", dependencies: ["ApusText"]),
        .testTarget(
            name: "ApusModelsTests", dependencies: ["CApusKernels", "ApusDistributed", "ApusModels", "ApusEngine"]),
        .testTarget(
            name: "ApusTrainingTests", dependencies: ["ApusSynchronization", "ApusDistributed", "ApusTraining"]),
        .testTarget(name: "ApusTeachingTests", dependencies: ["ApusTeaching"]),
        .testTarget(name: "ApusEngineTests", dependencies: ["ApusSynchronization", "ApusEngine"]),
        .testTarget(
            name: "ApusPlanningTests",
            dependencies: [
                "ApusPlanning", "ApusAttention", "ApusEngine", "ApusModels", "ApusServeBenchmark", "ApusTensor",
                "ApusText",
            ]),
        .testTarget(name: "ApusServerTests", dependencies: ["ApusServer"]),
    ],
    swiftLanguageModes: [.v6]
)
