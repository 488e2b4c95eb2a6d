"""Chemistry with RDKit: conversion of molecules, properties and bond inference."""
