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
                "ApusTensor", "ApusLayers", "ApusAttention", "ApusText", "ApusModels", "ApusTraining", "ApusEngine",
                "ApusPlanning",
            ]),
        .library(name: "apus_attention", type: .dynamic, targets: ["ApusAttentionC"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        .target(name: "ApusSynchronization"),
        .target(name: "CApusKernels"),
        .target(name: "CApusCUDA"),
        .target(name: "ApusTensor", dependencies: ["ApusSynchronization", "CApusKernels", "CApusCUDA"]),
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
            dependencies: ["ApusSynchronization", "ApusTensor", "ApusLayers", "ApusAttention", "ApusText"]),
        .target(
            name: "ApusTraining",
            dependencies: [
                "ApusSynchronization", "ApusModels", "ApusText", "ApusLayers", "ApusAttention", "ApusTensor",
                .product(name: "Yams", package: "Yams"),
            ]),
        .target(
            name: "ApusEngine", dependencies: ["ApusSynchronization", "ApusModels", "ApusAttention", "ApusText"]),
        .target(name: "ApusPlanning", dependencies: ["ApusAttention"]),
        .executableTarget(
            name: "apus",
            dependencies: [
                "ApusEngine", "ApusTraining", "ApusModels", "ApusText", "ApusAttention", "ApusPlanning",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ]),
        .testTarget(name: "ApusTensorTests", dependencies: ["ApusSynchronization", "ApusTensor", "CApusKernels"]),
        .testTarget(name: "ApusAttentionTests", dependencies: ["ApusAttention", "ApusPlanning"]),
        .testTarget(name: "ApusTextTests", dependencies: ["ApusText"]),
        .testTarget(name: "ApusModelsTests", dependencies: ["ApusModels", "ApusEngine"]),
        .testTarget(name: "ApusTrainingTests", dependencies: ["ApusTraining"]),
        .testTarget(name: "ApusEngineTests", dependencies: ["ApusEngine"]),
    ],
    swiftLanguageModes: [.v6]
)
